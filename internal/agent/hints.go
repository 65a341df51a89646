package agent

import (
	"net/netip"
	"sync"

	"github.com/spidernet-io/spiderpool/internal/addr"
)

// hints remembers which addresses of a pool were last seen taken, so that a
// search seldom tries one in vain. It decides nothing: the ledger does.
type hints struct {
	mu    sync.Mutex
	pools map[string]addr.Set
}

func newHints() *hints { return &hints{pools: map[string]addr.Set{}} }

func (h *hints) taken(pool string) addr.Set {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pools[pool]
}

// set replaces what is known of a pool by a LIST of it.
func (h *hints) set(pool string, listed addr.Set) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools[pool] = listed
}

func (h *hints) use(pool string, a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools[pool] = h.pools[pool].With(a)
}

func (h *hints) free(pool string, a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools[pool] = h.pools[pool].Without(a)
}
