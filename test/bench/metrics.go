package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// requests are how many requests an API server answered, by verb, resource and,
// if it refused, code: "POST spiderips", "POST spiderips 409".
type requests map[string]float64

// readRequests asks an API server what it answered since it started.
func readRequests(ctx context.Context, api rest.Interface) (requests, error) {
	text, err := api.Get().AbsPath("/metrics").Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the metrics of the API server: %w", err)
	}
	defer text.Close()
	return parseRequests(text)
}

// parseRequests sums apiserver_request_total. Left out are watches, which last
// and cost nothing per pod; leases, by which API servers know of each other;
// and requests that are for no resource.
func parseRequests(text io.Reader) (requests, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("metrics of the API server: %w", err)
	}
	counters := families["apiserver_request_total"]
	if counters == nil {
		return nil, fmt.Errorf("the metrics of the API server have no apiserver_request_total")
	}
	sums := requests{}
	for _, m := range counters.GetMetric() {
		verb, resource, code := label(m, "verb"), label(m, "resource"), label(m, "code")
		if resource == "" || slices.Contains([]string{"WATCH", "CONNECT"}, verb) || resource == "leases" {
			continue
		}
		key := verb + " " + resource
		if sub := label(m, "subresource"); sub != "" {
			key += "/" + sub
		}
		if code >= "300" {
			key += " " + code
		}
		sums[key] += m.GetCounter().GetValue()
	}
	return sums, nil
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// since returns what was answered after before.
func (r requests) since(before requests) requests {
	out := requests{}
	for key, n := range r {
		if d := n - before[key]; d != 0 {
			out[key] = d
		}
	}
	return out
}
