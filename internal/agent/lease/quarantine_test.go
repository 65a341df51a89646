package lease

import (
	"errors"
	"testing"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// TestQuarantine: an address of another host is no lease any more and belongs to nobody, also if the write was not answered.
func TestQuarantine(t *testing.T) {
	const host = "02:00:5e:10:00:01"
	api := openFaulty(t)
	for name, tc := range map[string]struct {
		next    fault
		address string
	}{
		"answered":           {answered, "10.77.1.1"},
		"the answer is lost": {answerLost, "10.77.1.2"},
		"it never happens":   {happensNever, "10.77.1.3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, api, tc.address)
			if err := s.create(); err != nil {
				t.Fatal(err)
			}
			api.next = tc.next
			err := s.Quarantine(t.Context(), s.i, s.lease(), host, "it answered")
			if tc.next != answered {
				if !errors.Is(err, ledger.ErrUnknown) || s.lease() == nil {
					t.Fatalf("%v, lease %v", err, s.lease())
				}
				err = s.Quarantine(t.Context(), s.i, s.lease(), host, "it answered")
			}
			if err != nil && !errors.Is(err, ledger.ErrLost) {
				t.Error(err)
			}
			e, err := s.ledger.Get(t.Context(), s.name)
			if err != nil || e == nil || e.Spec.Use != v2beta1.IPUseQuarantine || e.Spec.Conflict != host || e.Spec.Reason != "it answered" || e.Spec.Owner != nil {
				t.Errorf("%+v, %v", e, err)
			}
			if s.lease() != nil {
				t.Errorf("there is a lease still: %+v", s.lease())
			}
			if snapshot, err := s.List(t.Context()); err != nil || len(snapshot.Entries[s.i.Owner]) != 0 {
				t.Errorf("the audit is shown %v, %v", snapshot.Entries, err)
			}
			if err := s.create(); !errors.Is(err, ledger.ErrTaken) {
				t.Errorf("it is claimed again: %v", err)
			}
		})
	}
}
