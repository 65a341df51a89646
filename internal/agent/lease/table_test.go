package lease

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// fault is what becomes of a write whose answer does not come.
type fault string

const (
	answered fault = ""
	// answerLost: it happens, and the answer does not come.
	answerLost fault = "answer lost"
	// happensLate: it happens when the caller has given the answer up, once deliver is called.
	happensLate  fault = "happens late"
	happensNever fault = "happens never"
)

// faulty is a client of a real API server that fails the next write.
type faulty struct {
	client.WithWatch
	other   *ledger.Ledger // of the agent of node n2
	next    fault
	pending func() error
	writes  int
}

func (f *faulty) write(do func() error) error {
	f.writes++
	now := f.next
	f.next = answered
	switch now {
	case answered:
		return do()
	case answerLost:
		_ = do()
	case happensLate:
		f.pending = do
	}
	return context.DeadlineExceeded
}

// deliver lets a late write happen, if there is one; it may be refused then.
func (f *faulty) deliver() {
	if f.pending != nil {
		_ = f.pending()
		f.pending = nil
	}
}

// openFaulty is the API server that all tests share, for the agents of n1 and n2.
func openFaulty(t *testing.T) *faulty {
	t.Helper()
	server := apiserver.ForTest(t)
	install.Do(func() { apiserver.InstallProduct(t, server) })
	var agents [2]client.WithWatch
	for i, node := range []string{"n1", "n2"} {
		clients, err := apiclient.New(apiserver.AgentConfig(t, server, node))
		if err != nil {
			t.Fatal(err)
		}
		agents[i] = clients.Live
	}
	f := &faulty{other: ledger.New(agents[1])}
	f.WithWatch = interceptor.NewClient(agents[0], interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			sent := o.DeepCopyObject().(client.Object)
			if f.next == answered {
				sent = o
			}
			return f.write(func() error { return c.Create(ctx, sent, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			sent := o.DeepCopyObject().(client.Object)
			if f.next == answered {
				sent = o
			}
			return f.write(func() error { return c.Update(ctx, sent, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f.write(func() error { return c.Delete(ctx, o, opts...) })
		},
	})
	return f
}

var install sync.Once

// scene is one interface with one address, on a ledger that fails.
type scene struct {
	*Table
	t       *testing.T
	api     *faulty
	i       *Interface
	address string
	name    string
}

const netns = "/proc/thread-self/ns/net"

func newScene(t *testing.T, api *faulty, address string) *scene {
	t.Helper()
	s := &scene{Table: newTestTable(ledger.New(api)), t: t, api: api, address: address}
	i, unlock, err := s.Lock(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unlock)
	s.i, s.name = i, addr.Name(netip.MustParseAddr(address))
	return s
}

func (s *scene) spec(container string) v2beta1.IPSpec {
	return v2beta1.IPSpec{Address: s.address, Pool: "web", Node: "n1", Network: "net", Interface: "eth0", Netns: netns,
		ContainerID: container, Pod: v2beta1.IPPod{Namespace: "default", Name: "web", UID: owner.PodUID}, Use: v2beta1.IPUsePod,
		Owner: &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "set"}}
}

func (s *scene) lease() *Lease { return s.i.Lease(s.name) }

// create claims the address for c1.
func (s *scene) create() error {
	_, err := s.Create(s.t.Context(), s.i, &v2beta1.SpiderIP{Spec: s.spec("c1")})
	return err
}

// rewrite writes a container into the lease, as an ADD does: after Settle, if there is a lease then.
func (s *scene) rewrite(container string) error {
	if err := s.Settle(s.t.Context(), s.i); err != nil {
		return err
	}
	l := s.lease()
	if l == nil || !l.Held() {
		return nil
	}
	return s.Rewrite(s.t.Context(), s.i, l, s.spec(container))
}

// keep keeps the address for the next pod.
func (s *scene) keep() error {
	if l := s.lease(); l != nil {
		return s.Keep(s.t.Context(), s.i, l, "for the next pod")
	}
	return nil
}

// takeOver writes a container into what an earlier pod left.
func (s *scene) takeOver(container string) error {
	former, err := s.ledger.Get(s.t.Context(), s.name)
	if err != nil || former == nil {
		return err
	}
	if former.Spec.Use != v2beta1.IPUseKept { // as an ADD does that looks again
		s.Found(s.i, former)
		return nil
	}
	_, err = s.TakeOver(s.t.Context(), s.i, former, s.spec(container))
	return err
}

func (s *scene) release() error {
	l := s.lease()
	if l == nil {
		return nil
	}
	freed, err := s.Release(s.t.Context(), s.i, l)
	if freed && s.holder() != "free" {
		s.t.Errorf("it says that the address is free, and %s has it", s.holder())
	}
	return err
}

// steal lets another pod claim the address, if it is free.
func (s *scene) steal() {
	other := &v2beta1.SpiderIP{Spec: s.spec("other")}
	other.Spec.Pod.UID, other.Spec.Node = "pod-2", "n2"
	switch err := s.api.other.Claim(s.t.Context(), other); {
	case err == nil:
		s.t.Cleanup(func() { _ = s.api.other.Release(context.Background(), other) })
	case !errors.Is(err, ledger.ErrTaken):
		s.t.Error(err)
	}
}

// settle is Settle when what was sent can no longer happen.
func (s *scene) settle() error {
	s.api.deliver()
	if l := s.lease(); l != nil {
		l.inDoubtUntil = time.Time{}
		if l.stale() {
			l.staleUntil = time.Now().Add(-1)
		}
	}
	return s.Settle(s.t.Context(), s.i)
}

// String is who has the address in the ledger, and what the lease says.
func (s *scene) String() string { return s.holder() + ", " + s.leaseText() }

// holder is who has the address.
func (s *scene) holder() string {
	now, err := s.ledger.Get(s.t.Context(), s.name)
	switch {
	case err != nil:
		return err.Error()
	case now == nil:
		return "free"
	case now.Spec.Use == v2beta1.IPUseKept:
		return "kept"
	}
	return now.Spec.ContainerID
}

// leaseText is what the table knows of it.
func (s *scene) leaseText() string {
	l := s.lease()
	if l == nil {
		return "none"
	}
	text := l.Entry.Spec.ContainerID
	if !l.Held() {
		text = "no entry"
	}
	text += map[Told]string{Unknown: "", No: " untold", Yes: " told"}[l.Told]
	if l.unsettled() {
		text += " in doubt"
	}
	if l.stale() {
		text += " stale"
	}
	return text
}

// unanswered says what becomes of a write without an answer and of the call that follows it: who has the address in the ledger
// and what the lease says, after that call and when all that was sent has happened or cannot any more.
var unanswered = []struct {
	first string
	fault fault
	next  string
	after string
	end   string
}{
	{"create", answerLost, "again", "c1, c1 untold in doubt", "c1, c1 untold"},
	{"create", answerLost, "release", "unsettled: free, no entry untold in doubt", "free, none"},
	{"create", answerLost, "settle", "c1, c1 untold", "c1, c1 untold"},
	{"create", answerLost, "another", "c3, c3 untold in doubt", "c3, c3 untold"},
	{"create", answerLost, "settle early", "c1, c1 untold in doubt", "c1, c1 untold"},
	{"create", answerLost, "release when another pod has it", "unsettled: free, no entry untold in doubt", "free, none"},
	{"create", happensLate, "again", "c1, c1 untold in doubt", "c1, c1 untold"},
	{"create", happensLate, "release", "unsettled: free, no entry untold in doubt", "c1, c1 untold"},
	{"create", happensLate, "settle", "c1, c1 untold", "c1, c1 untold"},
	{"create", happensLate, "another", "free, no entry untold in doubt", "c1, c1 untold"},
	{"create", happensLate, "settle early", "free, no entry untold in doubt", "c1, c1 untold"},
	{"create", happensLate, "release when another pod has it", "unsettled: other, no entry untold in doubt", "other, none"},
	{"create", happensNever, "again", "c1, c1 untold in doubt", "c1, c1 untold"},
	{"create", happensNever, "release", "unsettled: free, no entry untold in doubt", "free, none"},
	{"create", happensNever, "settle", "free, none", "free, none"},
	{"create", happensNever, "another", "free, no entry untold in doubt", "free, none"},
	{"create", happensNever, "settle early", "free, no entry untold in doubt", "free, none"},
	{"create", happensNever, "release when another pod has it", "unsettled: other, no entry untold in doubt", "other, none"},
	{"create", answerLost, "again, release", "unsettled: free, no entry untold in doubt", "free, none"},
	{"create", happensLate, "again, release", "unsettled: free, no entry untold in doubt", "c1, c1 untold"},
	{"create", happensNever, "again, release", "unsettled: free, no entry untold in doubt", "free, none"},
	{"create", answerLost, "create for another", "taken: c1, c1 untold in doubt", "c1, c1 untold"},
	{"create", happensLate, "create for another", "taken: c1, c1 untold in doubt", "c1, c1 untold"},
	{"create", happensNever, "create for another", "c2, c2 untold in doubt", "c2, c2 untold"},

	{"rewrite", answerLost, "again", "c2, c2 untold", "c2, c2 untold"},
	{"rewrite", answerLost, "release", "free, none", "free, none"},
	{"rewrite", answerLost, "settle", "c2, c2 untold", "c2, c2 untold"},
	{"rewrite", answerLost, "another", "c3, c3 untold", "c3, c3 untold"},
	{"rewrite", answerLost, "settle early", "c2, c2 untold stale", "c2, c2 untold"},
	{"rewrite", answerLost, "release when another pod has it", "free, none", "free, none"},
	{"rewrite", happensLate, "again", "c2, c2 untold", "c2, c2 untold"},
	{"rewrite", happensLate, "release", "free, none", "free, none"},
	{"rewrite", happensLate, "settle", "c2, c2 untold", "c2, c2 untold"},
	{"rewrite", happensLate, "another", "c3, c3 untold", "c3, c3 untold"},
	{"rewrite", happensLate, "settle early", "c1, c1 told stale", "c2, c2 untold"},
	{"rewrite", happensLate, "release when another pod has it", "free, none", "free, none"},
	{"rewrite", happensNever, "again", "c2, c2 untold", "c2, c2 untold"},
	{"rewrite", happensNever, "release", "free, none", "free, none"},
	{"rewrite", happensNever, "settle", "c1, c1 told", "c1, c1 told"},
	{"rewrite", happensNever, "another", "c3, c3 untold", "c3, c3 untold"},
	{"rewrite", happensNever, "settle early", "c1, c1 told stale", "c1, c1 told"},
	{"rewrite", happensNever, "release when another pod has it", "free, none", "free, none"},

	{"release", answerLost, "release", "free, none", "free, none"},
	{"release", answerLost, "settle", "free, none", "free, none"},
	{"release", answerLost, "another", "free, none", "free, none"},
	{"release", answerLost, "settle early", "free, none", "free, none"},
	{"release", answerLost, "release when another pod has it", "other, none", "other, none"},
	{"release", happensLate, "release", "free, none", "free, none"},
	{"release", happensLate, "settle", "free, none", "free, none"},
	{"release", happensLate, "another", "c3, c3 untold", "c3, c3 untold"},
	{"release", happensLate, "settle early", "c1, c1 told stale", "free, none"},
	{"release", happensLate, "release when another pod has it", "free, none", "free, none"},
	{"release", happensNever, "release", "free, none", "free, none"},
	{"release", happensNever, "settle", "c1, c1 told", "c1, c1 told"},
	{"release", happensNever, "another", "c3, c3 untold", "c3, c3 untold"},
	{"release", happensNever, "settle early", "c1, c1 told stale", "c1, c1 told"},
	{"release", happensNever, "release when another pod has it", "free, none", "free, none"},
	{"release", answerLost, "create", "c1, c1 untold", "c1, c1 untold"},
	{"release", happensLate, "create", "c1, c1 untold", "c1, c1 untold"},
	{"release", happensNever, "create", "c1, c1 untold", "c1, c1 untold"},

	{"keep", answerLost, "again", "kept, none", "kept, none"},
	{"keep", answerLost, "settle", "kept, none", "kept, none"},
	{"keep", answerLost, "settle early", "kept, none", "kept, none"},
	{"keep", answerLost, "another", "kept, none", "kept, none"},
	{"keep", answerLost, "take over", "c4, c4 untold", "c4, c4 untold"},
	{"keep", happensLate, "again", "kept, none", "kept, none"},
	{"keep", happensLate, "settle", "kept, none", "kept, none"},
	{"keep", happensLate, "settle early", "c1, c1 told stale", "kept, none"},
	{"keep", happensLate, "another", "c3, c3 untold", "c3, c3 untold"},
	{"keep", happensNever, "again", "kept, none", "kept, none"},
	{"keep", happensNever, "settle", "c1, c1 told", "c1, c1 told"},
	{"keep", happensNever, "another", "c3, c3 untold", "c3, c3 untold"},
	{"take over", answerLost, "again", "c4, c4 untold in doubt", "c4, c4 untold"},
	{"take over", answerLost, "keep", "unsettled: kept, no entry untold in doubt", "kept, none"},
	{"take over", answerLost, "settle", "c4, c4 untold", "c4, c4 untold"},
	{"take over", answerLost, "settle early", "c4, c4 untold in doubt", "c4, c4 untold"},
	{"take over", answerLost, "another", "c3, c3 untold in doubt", "c3, c3 untold"},
	{"take over", happensLate, "again", "c4, c4 untold in doubt", "c4, c4 untold"},
	{"take over", happensLate, "keep", "unsettled: kept, no entry untold in doubt", "c4, c4 untold"},
	{"take over", happensLate, "settle", "c4, c4 untold", "c4, c4 untold"},
	{"take over", happensLate, "settle early", "kept, no entry untold in doubt", "c4, c4 untold"},
	{"take over", happensLate, "another", "kept, no entry untold in doubt", "c4, c4 untold"},
	{"take over", happensNever, "again", "c4, c4 untold in doubt", "c4, c4 untold"},
	{"take over", happensNever, "keep", "unsettled: kept, no entry untold in doubt", "kept, none"},
	{"take over", happensNever, "settle", "kept, none", "kept, none"},
	{"recreate", answerLost, "again", "c1, c1 told in doubt", "c1, c1 told"},
	{"recreate", answerLost, "release", "unsettled: free, no entry untold in doubt", "free, none"},
	{"recreate", answerLost, "settle", "c1, c1 told", "c1, c1 told"},
	{"recreate", answerLost, "another", "c3, c3 untold in doubt", "c3, c3 untold"},
	{"recreate", answerLost, "settle early", "c1, c1 told in doubt", "c1, c1 told"},
	{"recreate", answerLost, "release when another pod has it", "unsettled: free, no entry untold in doubt", "free, none"},
	{"recreate", happensLate, "again", "c1, c1 told in doubt", "c1, c1 told"},
	{"recreate", happensLate, "release", "unsettled: free, no entry untold in doubt", "c1, c1 untold"},
	{"recreate", happensLate, "settle", "c1, c1 told", "c1, c1 told"},
	{"recreate", happensLate, "another", "lost: free, no entry untold in doubt", "c1, c1 untold"},
	{"recreate", happensLate, "settle early", "free, c1 told in doubt", "c1, c1 told"},
	{"recreate", happensLate, "release when another pod has it", "unsettled: other, no entry untold in doubt", "other, none"},
	{"recreate", happensNever, "again", "c1, c1 told in doubt", "c1, c1 told"},
	{"recreate", happensNever, "release", "unsettled: free, no entry untold in doubt", "free, none"},
	{"recreate", happensNever, "settle", "free, c1 told", "free, c1 told"},
	{"recreate", happensNever, "another", "lost: free, no entry untold in doubt", "free, none"},
	{"recreate", happensNever, "settle early", "free, c1 told in doubt", "free, c1 told"},
	{"recreate", happensNever, "release when another pod has it", "unsettled: other, no entry untold in doubt", "other, none"},
}

// do carries out a call of the table.
func (s *scene) do(call string) error {
	switch call {
	case "rewrite":
		return s.rewrite("c2")
	case "another": // ADD, of a third container of the pod
		return s.rewrite("c3")
	case "release":
		return s.release()
	case "keep":
		return s.keep()
	case "take over":
		return s.takeOver("c4")
	case "recreate":
		_, err := s.Recreate(s.t.Context(), s.i, s.lease())
		return err
	case "settle":
		return s.settle()
	case "again, release":
		if err := s.create(); err != nil {
			return err
		}
		return s.release()
	case "create": // also after a release: the same ADD draws the address again
		return s.create()
	case "create for another":
		s.api.deliver()
		_, err := s.Create(s.t.Context(), s.i, &v2beta1.SpiderIP{Spec: s.spec("c2")})
		return err
	case "settle early":
		return s.Settle(s.t.Context(), s.i)
	case "release when another pod has it":
		s.steal()
		return s.release()
	}
	s.t.Fatalf("there is no call %q", call)
	return nil
}

// serve brings the scene to where a call begins: a container that was served, whose entry is there unless it is to be made
// again.
func (s *scene) serve(first string) {
	s.t.Helper()
	if first == "create" {
		return
	}
	if err := s.create(); err != nil {
		s.t.Fatal(err)
	}
	l := s.lease()
	if first == "take over" {
		if err := s.keep(); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	l.Told, l.Owned, l.Confirmed = Yes, true, true
	if first == "recreate" {
		if err := s.ledger.Release(s.t.Context(), l.Entry); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestUnansweredWrites(t *testing.T) {
	api := openFaulty(t)
	for n, tc := range unanswered {
		t.Run(fmt.Sprintf("%s/%s/%s", tc.first, tc.fault, tc.next), func(t *testing.T) {
			s := newScene(t, api, fmt.Sprintf("10.9.0.%d", n))
			s.serve(tc.first)
			api.next = tc.fault
			if err := s.do(tc.first); !errors.Is(err, ledger.ErrUnknown) {
				t.Fatalf("the write that is not answered: %v", err)
			}
			next := tc.next
			if next == "again" {
				next = tc.first
			}
			err := s.do(next)
			after := s.String()
			switch {
			case errors.Is(err, ErrUnsettled):
				after = "unsettled: " + after
			case errors.Is(err, ledger.ErrTaken):
				after = "taken: " + after
			case errors.Is(err, ledger.ErrLost):
				after = "lost: " + after
			case err != nil:
				t.Fatal(err)
			}
			if after != tc.after {
				t.Errorf("after it: %s; want %s", after, tc.after)
			}
			if err := s.settle(); err != nil || s.String() != tc.end {
				t.Errorf("when all is settled: %s (%v); want %s", s, err, tc.end)
			}
			s.releaseAll()
		})
	}
}

// releaseAll releases what the interface holds, and nothing of it must be left, here or in the ledger.
func (s *scene) releaseAll() {
	s.t.Helper()
	want := "free, none"
	if holder := s.holder(); s.lease() == nil && (holder == "other" || holder == "kept") {
		want = holder + ", none"
	}
	if err := s.release(); err != nil || s.String() != want {
		s.t.Errorf("when it is released: %s (%v); want %s", s, err, want)
	}
}

// TestReleaseLeavesWhatAnotherIsAbout: an entry that a late write gave to another container of the pod, whose ADD is in
// progress, is not released in the name of the first.
func TestReleaseLeavesWhatAnotherIsAbout(t *testing.T) {
	api := openFaulty(t)
	s := newScene(t, api, "10.9.1.1")
	s.serve("rewrite")
	api.next = happensLate
	if err := s.rewrite("c2"); !errors.Is(err, ledger.ErrUnknown) {
		t.Fatal(err)
	}
	if err := s.Settle(t.Context(), s.i); err != nil {
		t.Fatal(err)
	}
	_, leave, err := s.Admit(t.Context(), Key{"c2", "eth0"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	api.deliver()
	if err := s.release(); err != nil || s.String() != "c2, c2 untold stale" {
		t.Errorf("released while the ADD of c2 is in progress: %s, %v", s, err)
	}
	leave()
	s.releaseAll()
}

// TestOneWriteEach: a call that is answered writes once.
func TestOneWriteEach(t *testing.T) {
	api := openFaulty(t)
	s := newScene(t, api, "10.9.1.2")
	for i, call := range []string{"create", "rewrite", "another", "release"} {
		if err := s.do(call); err != nil || api.writes != i+1 {
			t.Errorf("%s: %v, %d writes", call, err, api.writes-i)
		}
	}
}
