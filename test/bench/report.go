package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is what was measured of one contestant in one scenario.
type row struct {
	scenario   string
	contestant contestant
	rates      []float64 // ADDs that succeeded per second, by round
	latencies  []time.Duration
	adds       int
	failures   int // ADDs and DELs, and addresses that are not free afterwards
	duplicates int
	missing    int   // SpiderEndpoints
	why        error // the first failure
	requests   requests
}

// added takes down the ADDs of a round. All its addresses are held at the same
// time.
func (r *row) added(outcomes [][]outcome, took time.Duration) {
	var addresses []string
	for _, o := range slices.Concat(outcomes...) {
		r.adds++
		r.latencies = append(r.latencies, o.took)
		if o.err != nil {
			r.fail(1, o.err)
			continue
		}
		addresses = append(addresses, o.address)
	}
	r.duplicates += repeated(addresses)
	r.rates = append(r.rates, float64(len(addresses))/took.Seconds())
}

func (r *row) deleted(outcomes [][]outcome) {
	for _, o := range slices.Concat(outcomes...) {
		if o.err != nil {
			r.fail(1, o.err)
		}
	}
}

func (r *row) fail(n int, why error) {
	r.failures += n
	if r.why == nil {
		r.why = why
	}
}

// asked takes down what the API server was asked in a round.
func (r *row) asked(more requests) {
	if r.requests == nil {
		r.requests = requests{}
	}
	for key, n := range more {
		r.requests[key] += n
	}
}

func (r *row) ok() bool { return r.failures+r.duplicates+r.missing == 0 }

// fate is what became of a product's agents.
type fate struct {
	name  string
	kib   []int    // resident memory of those that run
	ended []string // what is known of the others, of which there should be none
}

// report is the result of a bench.
type report struct {
	load     string
	rows     []*row
	products []fate
}

func (r *report) ok() bool {
	for _, row := range r.rows {
		if !row.ok() {
			return false
		}
	}
	for _, f := range r.products {
		if len(f.ended) > 0 {
			return false
		}
	}
	return true
}

// print ends with the line that tools read.
func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%d CPUs, load average %s before the first round\n\n", runtime.NumCPU(), r.load)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "scenario\tplugin\tADD/s min\tmedian\tmax\tms p50\tp90\tp99\tmax\tfailures\tduplicates\tmissing endpoints\t")
	for _, row := range r.rows {
		fmt.Fprintf(table, "%s\t%s\t%.1f\t%.1f\t%.1f", row.scenario, row.contestant.name(), slices.Min(row.rates), median(row.rates), slices.Max(row.rates))
		for _, p := range []int{50, 90, 99, 100} {
			fmt.Fprintf(table, "\t%.1f", ms(percentile(row.latencies, p)))
		}
		fmt.Fprintf(table, "\t%d\t%d\t%d\t\n", row.failures, row.duplicates, row.missing)
	}
	_ = table.Flush()
	fmt.Fprintln(out, "\nAPI requests per ADD, SpiderEndpoints included:")
	for _, row := range r.rows {
		if row.requests != nil {
			fmt.Fprintf(out, "  %s %s: %s\n", row.scenario, row.contestant.name(), row.requests.per(row.adds))
		}
	}
	fmt.Fprintln(out, "\nResident memory of the agents at the end, MiB:")
	for _, f := range r.products {
		fmt.Fprintf(out, "  %s: %s\n", f.name, f.memory())
	}
	fmt.Fprintln(out)
	r.printFailures(out)
	for _, f := range r.products {
		if len(r.products) > 1 {
			fmt.Fprintf(out, "%s: %s\n", f.name, r.ratios(f.name))
		}
	}
	fmt.Fprintf(out, "bench: %s\n", r.ratios(r.products[len(r.products)-1].name))
}

func (r *report) printFailures(out io.Writer) {
	for _, row := range r.rows {
		if row.why != nil {
			fmt.Fprintf(out, "%s %s, first failure: %v\n", row.scenario, row.contestant.name(), row.why)
		}
	}
	for _, f := range r.products {
		for _, why := range f.ended {
			fmt.Fprintf(out, "%s: %s\n", f.name, why)
		}
	}
}

// ratios compares a product with host-local, and with itself.
func (r *report) ratios(product string) string {
	return fmt.Sprintf("storm=%.2f serial=%.2f exact=%.2f",
		r.rate(storm, product)/r.rate(storm, hostLocalName),
		r.p50(serial, product)/r.p50(serial, hostLocalName),
		r.rate(exact, product)/r.rate(storm, product))
}

func (r *report) rate(scenario, contestant string) float64 {
	return median(r.row(scenario, contestant).rates)
}

func (r *report) p50(scenario, contestant string) float64 {
	return ms(percentile(r.row(scenario, contestant).latencies, 50))
}

// row is empty for what was not measured.
func (r *report) row(scenario, contestant string) *row {
	for _, row := range r.rows {
		if row.scenario == scenario && row.contestant.name() == contestant {
			return row
		}
	}
	return &row{}
}

// per prints requests per ADD, those that are more than one in a hundred.
func (r requests) per(adds int) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(r)) {
		if n := r[key] / float64(adds); n >= 0.01 {
			out = append(out, fmt.Sprintf("%s %.2f", key, n))
		}
	}
	return strings.Join(out, ", ")
}

func (f fate) memory() string {
	var out []string
	for _, kib := range f.kib {
		out = append(out, fmt.Sprintf("%.1f", float64(kib)/1024))
	}
	return strings.Join(out, " ")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// loadAverage is over 1, 5 and 15 minutes (proc_loadavg(5)).
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
