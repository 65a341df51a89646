package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// TestReadSandbox: what a runtime is writing is no sandbox yet, and no error.
func TestReadSandbox(t *testing.T) {
	const whole = `{"annotations":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"1","io.kubernetes.cri.sandbox-namespace":"shop",
"io.kubernetes.cri.sandbox-name":"web","io.kubernetes.cri.sandbox-uid":"2"},"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/a"}]}}`
	sandbox := Sandbox{ID: "1", Namespace: "shop", Name: "web", UID: "2", Netns: "/run/netns/a"}
	for _, tt := range []struct {
		text string
		want Sandbox
		fail bool
	}{
		{whole, sandbox, false},
		{"", Sandbox{}, false},
		{whole[:len(whole)-1], Sandbox{}, false},
		{whole[:20], Sandbox{}, false},
		{`{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"1"}}`, Sandbox{}, false},
		{"{]", Sandbox{}, true},
	} {
		file := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readSandbox(file)
		if made := !got.Made.IsZero(); made != (tt.want.ID != "") {
			t.Errorf("%q: made at %s", tt.text, got.Made)
		}
		if got.Made = (time.Time{}); got != tt.want || (err != nil) != tt.fail {
			t.Errorf("%q: %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

// TestLastOf: the sandboxes of a pod of the same name, and of the pod itself before a restart, are others.
func TestLastOf(t *testing.T) {
	at := func(id, uid string, second int64) Sandbox {
		return Sandbox{ID: id, Namespace: "shop", Name: "web-0", UID: uid, Made: time.Unix(second, 0)}
	}
	all := []Sandbox{at("a", "before", 5), at("b", "now", 2), at("c", "now", 3), at("d", "now", 1), at("e", "next", 4)}
	for uid, want := range map[types.UID]string{"before": "a", "now": "c", "next": "e", "none": ""} {
		if got := lastOf(all, uid); got.ID != want {
			t.Errorf("of pod %s: sandbox %q, want %q", uid, got.ID, want)
		}
	}
}
