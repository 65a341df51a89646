package metrics

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spidernet-io/spiderpool/test/exposition"
)

// TestDocumented: docs/metrics.md has what an agent exposes.
func TestDocumented(t *testing.T) {
	m := New(State{Waiting: func() int { return 0 }, Ready: func() bool { return true }, APIFailing: func() time.Duration { return 0 }})
	m.Full(slices.Values([]string{"a"})) // a pool has a series once it was full
	exposition.Compare(t, "Agent", prometheus.GathererFunc(m.Gather))
}
