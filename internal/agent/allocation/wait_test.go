package allocation

import (
	"net/netip"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/line"
)

// TestPassedOn: an ADD that leaves passes what it was offered and did not try to the next that can use it; what nobody wants
// is noted as free.
func TestPassedOn(t *testing.T) {
	a := &Allocator{}
	one, two := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
	joined := func(pod string, after time.Duration, wanted ...netip.Addr) *Request {
		full := &Full{}
		for _, a := range wanted {
			full.Candidates = full.Candidates.With(a)
		}
		r := &Request{UID: pod, Came: time.Unix(0, 0).Add(after)}
		r.waiter = a.line.Join(r.Came, r.Owner(), (&Refused{Full: map[string]*Full{"v4": full}}).wants)
		return r
	}
	first, second := joined("first", 1, one, two), joined("second", 2, two)
	usage := a.usages.Of("v4")
	for _, address := range []netip.Addr{one, two} {
		usage.Won(address)
		a.freed(line.Offer{Pool: "v4", Address: address}, lease.Owner{})
	}
	a.leave(first)
	if got, ok := second.waiter.Take("v4"); !ok || got != two || len(second.waiter.Woken) != 1 {
		t.Errorf("the second in line was passed %s, %t", got, ok)
	}
	if !usage.LikelyFree(addr.Set{}.With(one), nil, newRandom()) || usage.LikelyFree(addr.Set{}.With(two), nil, newRandom()) {
		t.Error("what nobody wants is not free, or what is offered is")
	}
	if first.waiter != nil || a.Waiting() != 1 {
		t.Errorf("%d wait", a.Waiting())
	}
	a.leave(second)
}
