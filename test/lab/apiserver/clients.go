package apiserver

import (
	"context"
	"fmt"
	"net"
	"strconv"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Endpoint is the URL at which this process reaches the server.
func (s *Server) Endpoint() string {
	if s.Place != nil {
		return s.Place.Endpoint
	}
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
}

// Config is for an administrator (group system:masters), without a limit of
// requests per second.
func (s *Server) Config() *rest.Config {
	cfg, err := s.ConfigFor("admin", "system:masters")
	if err != nil {
		panic(err) // signing with a key in memory fails only without randomness
	}
	return cfg
}

// ConfigFor is for any user and groups; what they may do is RBAC's business.
func (s *Server) ConfigFor(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := s.ca.Client(user, groups...)
	if err != nil {
		return nil, err
	}
	cfg := s.anonymous()
	cfg.CertData, cfg.KeyData = cert, key
	return cfg, nil
}

// ServiceAccountConfig is for a service account that exists, by a token from
// the TokenRequest API. A token bound to a pod names the pod's node too
// (https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/);
// bound may be nil. The token lasts an hour.
func (s *Server) ServiceAccountConfig(ctx context.Context, namespace, name string, bound *authenticationv1.BoundObjectReference) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		return nil, err
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, req, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a token of service account %s/%s: %w", namespace, name, err)
	}
	cfg := s.anonymous()
	cfg.BearerToken = token.Status.Token
	return cfg, nil
}

// anonymous is a client without credentials.
func (s *Server) anonymous() *rest.Config {
	return &rest.Config{Host: s.Endpoint(), TLSClientConfig: rest.TLSClientConfig{CAData: s.ca.pem}, QPS: -1}
}

// Kubeconfig is the file with the administrator's credentials.
func (s *Server) Kubeconfig() string { return s.file("kubeconfig") }

// Kubeconfig returns the content of a file for kubectl, helm and others with
// the credentials of a config of this package.
func Kubeconfig(cfg *rest.Config) ([]byte, error) {
	const name = "spiderpool-lab"
	return clientcmd.Write(clientcmdapi.Config{
		CurrentContext: name,
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
	})
}
