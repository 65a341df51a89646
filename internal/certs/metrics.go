package certs

import "github.com/prometheus/client_golang/prometheus"

var (
	notBefore = prometheus.NewDesc("spiderpool_controller_certificate_not_before_timestamp_seconds",
		"Since when the certificate that is served to the API server is valid, in Unix time", nil, nil)
	notAfter = prometheus.NewDesc("spiderpool_controller_certificate_not_after_timestamp_seconds",
		"Until when the certificate that is served to the API server is valid, in Unix time", nil, nil)
)

// Describe tells which metrics there are.
func (c *Certs) Describe(out chan<- *prometheus.Desc) { out <- notBefore; out <- notAfter }

// Collect tells how long the certificate that is served is valid; nothing while there is none.
func (c *Certs) Collect(out chan<- prometheus.Metric) {
	served, err := c.GetCertificate(nil)
	if err != nil {
		return
	}
	out <- prometheus.MustNewConstMetric(notBefore, prometheus.GaugeValue, float64(served.Leaf.NotBefore.Unix()))
	out <- prometheus.MustNewConstMetric(notAfter, prometheus.GaugeValue, float64(served.Leaf.NotAfter.Unix()))
}
