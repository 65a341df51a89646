package agent

import "testing"

// TestRepeatAfterTakeOver: a container whose address another container of its pod has taken over is not answered that
// address again, though it was before.
func TestRepeatAfterTakeOver(t *testing.T) {
	c := newCluster(t)
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.1-10.1.0.2"})
	n := c.node("a")
	p := c.pod(n, "web", c.from("v4|"))
	first := n.add(p, "c1")
	n.endNetns("c1")
	if again := n.add(p, "c2"); again[0] != first[0] {
		t.Fatalf("c1 was given %v, and c2, which replaces it, %v", first, again)
	}
	if got := n.add(p, "c1"); got[0] == first[0] {
		t.Errorf("both containers bear %s", got[0])
	}
}
