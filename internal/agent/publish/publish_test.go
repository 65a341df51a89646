package publish

import (
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestAgain: an endpoint is looked at again when it was written long ago, and has nothing else to be written; each once.
func TestAgain(t *testing.T) {
	now := time.Now()
	p := New(nil, nil, "n1", time.Minute, nil, nil)
	for uid, at := range map[string]time.Time{"old": now.Add(-61 * time.Second), "young": now.Add(-59 * time.Second), "to be written": {}} {
		p.pods[uid] = &endpoint{at: at, written: &v2beta1.SpiderEndpoint{}}
	}
	for range 2 {
		p.again(now)
	}
	if n := p.queue.Len(); n != 1 {
		t.Fatalf("%d are looked at", n)
	}
	if uid, _ := p.queue.Get(); uid != "old" {
		t.Errorf("%s is looked at", uid)
	}
	for uid, e := range p.pods {
		if looked := uid == "old"; e.found != looked || (e.written == nil) != looked {
			t.Errorf("%s: %+v", uid, e)
		}
	}
}
