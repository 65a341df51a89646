// The Prometheus operator: its CustomResourceDefinitions, against which the chart's objects for it are checked. Nothing of it
// is built.
module github.com/spidernet-io/spiderpool/test/lab/parts/prometheusoperator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.91.0
