// Package v2beta1 is the Kubernetes API of Spiderpool: what administrators write (SpiderIPPool, SpiderSubnet,
// SpiderReservedIP) and what Spiderpool keeps (SpiderIP, SpiderEndpoint).
//
// An IP range is everywhere a string: one address "10.6.0.10", or the first and the last address joined by a dash,
// "10.6.0.10-10.6.0.20", without blanks, both of one family and in order.
//
// The markers here become the CustomResourceDefinitions of the chart. They refuse what is wrong with one object alone;
// what depends on other objects is refused by the admission webhook.
//
// +kubebuilder:object:generate=true
// +groupName=spiderpool.spidernet.io
package v2beta1
