package main

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// measured is a row of one round.
func measured(scenario string, c contestant, rates []float64, p50 time.Duration, edit ...func(*row)) *row {
	r := &row{scenario: scenario, contestant: c, rates: rates, latencies: []time.Duration{p50}, adds: 100}
	for _, e := range edit {
		e(r)
	}
	return r
}

func TestPrint(t *testing.T) {
	older, newer, files := &product{title: "old"}, &product{title: "new"}, &hostLocal{}
	r := &report{
		load: "0.10 0.20 0.30",
		rows: []*row{
			measured(storm, older, []float64{100, 50, 75}, 20*time.Millisecond),
			measured(storm, newer, []float64{150}, 10*time.Millisecond, func(r *row) {
				r.requests = requests{"POST spiderips": 100, "GET spiderippools": 25, "LIST spiderips": 0.5}
			}),
			measured(storm, files, []float64{300}, 5*time.Millisecond),
			measured(serial, older, []float64{40}, 15*time.Millisecond),
			measured(serial, newer, []float64{50}, 12500*time.Microsecond),
			measured(serial, files, []float64{200}, 5*time.Millisecond),
			measured(exact, older, []float64{60}, time.Second),
			measured(exact, newer, []float64{120}, time.Second, func(r *row) {
				r.failures, r.duplicates, r.missing, r.why = 3, 2, 1, errors.New("pool full")
			}),
		},
		products: []fate{{name: "old", kib: []int{1024, 2048}}, {name: "new", kib: []int{1536}, ended: []string{"the agent of a ended: log"}}},
	}
	var out strings.Builder
	r.print(&out)
	_, got, _ := strings.Cut(out.String(), "first round\n")
	want := `
  scenario      plugin  ADD/s min  median    max  ms p50     p90     p99     max  failures  duplicates  missing endpoints
     storm         old       50.0    75.0  100.0    20.0    20.0    20.0    20.0         0           0                  0
     storm         new      150.0   150.0  150.0    10.0    10.0    10.0    10.0         0           0                  0
     storm  host-local      300.0   300.0  300.0     5.0     5.0     5.0     5.0         0           0                  0
    serial         old       40.0    40.0   40.0    15.0    15.0    15.0    15.0         0           0                  0
    serial         new       50.0    50.0   50.0    12.5    12.5    12.5    12.5         0           0                  0
    serial  host-local      200.0   200.0  200.0     5.0     5.0     5.0     5.0         0           0                  0
     exact         old       60.0    60.0   60.0  1000.0  1000.0  1000.0  1000.0         0           0                  0
     exact         new      120.0   120.0  120.0  1000.0  1000.0  1000.0  1000.0         3           2                  1

API requests per ADD, SpiderEndpoints included:
  storm new: GET spiderippools 0.25, POST spiderips 1.00

Resident memory of the agents at the end, MiB:
  old: 1.0 2.0
  new: 1.5

exact new, first failure: pool full
new: the agent of a ended: log
old: storm=0.25 serial=3.00 exact=0.80
new: storm=0.50 serial=2.50 exact=0.80
bench: storm=0.50 serial=2.50 exact=0.80
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReportIsOK(t *testing.T) {
	good, bad := []*row{{adds: 1}, {adds: 1}}, []*row{{adds: 1}, {adds: 1, failures: 1}}
	alive, ended := []fate{{kib: []int{1}}}, []fate{{kib: []int{1}}, {ended: []string{"why"}}}
	for _, tc := range []struct {
		name string
		r    report
		want bool
	}{
		{"all well", report{rows: good, products: alive}, true},
		{"a failure", report{rows: bad, products: alive}, false},
		{"an agent ended", report{rows: good, products: ended}, false},
	} {
		if got := tc.r.ok(); got != tc.want {
			t.Errorf("%s: ok is %t", tc.name, got)
		}
	}
}

// An agent that ended is reported with its last words.
func TestFate(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	dead, err := process.Start(process.Options{Args: []string{"sh", "-c", "echo no more memory"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	for dead.Alive() {
		time.Sleep(time.Millisecond)
	}
	living, err := process.Start(process.Options{Args: []string{"sleep", "1000"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := living.Stop(t.Context(), 0); err != nil {
			t.Error(err)
		}
	}()
	f, err := (&product{agents: []*agent{{Process: dead, node: "a"}, {Process: living, node: "b"}}}).fate()
	if err != nil {
		t.Fatal(err)
	}
	if len(f.kib) != 1 || f.kib[0] <= 0 || len(f.ended) != 1 || !strings.Contains(f.ended[0], "the agent of a ended") || !strings.Contains(f.ended[0], "no more memory") {
		t.Errorf("%+v", f)
	}
}

func TestRowOfARound(t *testing.T) {
	wrong := errors.New("wrong")
	for _, tc := range []struct {
		name       string
		adds, dels [][]outcome
		want       row
		ok         bool
		perSecond  float64
	}{
		{
			name: "all well",
			adds: [][]outcome{{{address: "a"}, {address: "b"}}, {{address: "c"}}},
			dels: [][]outcome{{{}, {}}, {{}}},
			want: row{adds: 3}, ok: true, perSecond: 1.5,
		},
		{
			name: "an ADD fails", adds: [][]outcome{{{address: "a"}, {err: wrong}}},
			want: row{adds: 2, failures: 1}, perSecond: 0.5,
		},
		{
			name: "a DEL fails", adds: [][]outcome{{{address: "a"}}}, dels: [][]outcome{{{err: wrong}}},
			want: row{adds: 1, failures: 1}, perSecond: 0.5,
		},
		{
			name: "two nodes get one address", adds: [][]outcome{{{address: "a"}}, {{address: "b"}, {address: "a"}}},
			want: row{adds: 3, duplicates: 1}, perSecond: 1.5,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r row
			r.added(tc.adds, 2*time.Second)
			r.deleted(tc.dels)
			if r.adds != tc.want.adds || r.failures != tc.want.failures || r.duplicates != tc.want.duplicates || r.ok() != tc.ok {
				t.Errorf("%d ADDs, %d failures, %d duplicates, ok: %t", r.adds, r.failures, r.duplicates, r.ok())
			}
			if (r.why != nil) != (tc.want.failures > 0) {
				t.Errorf("the reason is %v", r.why)
			}
			if diff := cmp.Diff([]float64{tc.perSecond}, r.rates); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if (&row{missing: 1}).ok() {
		t.Error("a row with a missing endpoint is ok")
	}
}

func TestAddressIn(t *testing.T) {
	for _, tc := range []struct{ result, want string }{
		{`{"cniVersion":"1.0.0","ips":[{"address":"10.6.0.7/16","gateway":"10.6.0.1"}],"dns":{}}`, "10.6.0.7/16"},
		{`{"cniVersion":"1.0.0","ips":[]}`, ""},
		{`{"cniVersion":"1.0.0","ips":[{"address":"10.6.0.7/16"},{"address":"10.6.0.8/16"}]}`, ""},
		{`{"ips":[{}]}`, ""},
		{``, ""},
	} {
		got, err := addressIn([]byte(tc.result))
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s has %q, %v; want %q", tc.result, got, err, tc.want)
		}
	}
}

func TestContainerIDsAreNeverUsedAgain(t *testing.T) {
	a, b := containerID(), containerID()
	if form := regexp.MustCompile(`^[0-9a-f]{64}$`); a == b || !form.MatchString(a) || !form.MatchString(b) {
		t.Errorf("%s, %s", a, b)
	}
}
