package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// Options say where an API server runs. The zero value is one on loopback
// that ends with this process.
type Options struct {
	// Dir holds data, keys and logs. Empty: a temporary directory that
	// vanishes with the server.
	Dir string `json:"-"`
	// Out receives the progress of building missing parts. Nil: os.Stderr.
	Out io.Writer `json:"-"`
	// Place is set for the control plane of a lab.
	Place *Place `json:"place,omitempty"`
	// Args are further flags of kube-apiserver.
	Args []string `json:"args,omitempty"`
}

// Place is the network namespace in which the server of a lab lives. It
// outlives the process that started it, and expects kube-controller-manager
// beside it.
type Place struct {
	Netns     string         `json:"netns"`     // file of the namespace
	Cgroup    string         `json:"cgroup"`    // cgroup.procs file to join
	Addresses []netip.Addr   `json:"addresses"` // of the server; the first is advertised
	Endpoint  string         `json:"endpoint"`  // URL by which this machine reaches it
	Services  []netip.Prefix `json:"services"`  // service ranges, one per family
}

// Server is a kube-apiserver and its etcd.
type Server struct {
	dir string
	ca  *CA
	settings
	etcd, api process.Process
	guard     io.Closer // removes dir when closed or when this process ends; nil: dir stays
	agents    sync.Map  // *rest.Config by node, of AgentConfig
}

// settings are what Open needs to know about a server that another process
// started.
type settings struct {
	Options
	Bins      map[string]string `json:"bins"` // directories of the parts
	Port      int               `json:"port"`
	EtcdPorts [2]int            `json:"etcdPorts"` // clients, peers
}

const (
	readyTimeout = 2 * time.Minute // generous: the machine may be compiling
	stopGrace    = 5 * time.Second
)

// Start builds missing parts and returns when the server is ready.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{dir: o.Dir, settings: settings{Options: o, Bins: map[string]string{}}}
	if o.Out == nil {
		o.Out = os.Stderr
	}
	for _, part := range []string{"etcd", "kubernetes"} {
		bin, err := parts.Bin(ctx, o.Out, part)
		if err != nil {
			return nil, err
		}
		s.Bins[part] = bin
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Stop(ctx))
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Open returns the server of a lab, whose Options.Dir was dir.
func Open(dir string) (*Server, error) {
	s := &Server{dir: dir}
	data, err := os.ReadFile(s.file("server.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &s.settings); err != nil {
		return nil, fmt.Errorf("%s is damaged, take the lab down: %w", s.file("server.json"), err)
	}
	if s.ca, err = openCA(s.file("pki")); err != nil {
		return nil, err
	}
	s.etcd, s.api = process.Load(s.file("etcd.json")), process.Load(s.file("kube-apiserver.json"))
	return s, nil
}

// Stop ends both processes; data in a temporary directory is removed.
func (s *Server) Stop(ctx context.Context) error {
	err := errors.Join(s.api.Stop(ctx, stopGrace), s.etcd.Stop(ctx, stopGrace))
	if s.guard != nil {
		err = errors.Join(err, s.guard.Close(), os.RemoveAll(s.dir))
	}
	return err
}

// StopAPI ends kube-apiserver alone: its data and its address stay.
func (s *Server) StopAPI(ctx context.Context) error { return s.api.Stop(ctx, stopGrace) }

// KillAPI kills kube-apiserver at whatever instruction it is.
func (s *Server) KillAPI(ctx context.Context) error { return s.api.Stop(ctx, 0) }

// StartAPI starts kube-apiserver again and returns when it is ready.
func (s *Server) StartAPI(ctx context.Context) error {
	if s.api.Alive() {
		return nil
	}
	return s.startAPI(ctx)
}

// Restart ends kube-apiserver and starts it again, with the same data at the
// same address, and returns when it is ready.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.StopAPI(ctx); err != nil {
		return err
	}
	return s.StartAPI(ctx)
}

// CA is the authority that the server trusts for clients' certificates and
// that signed its own.
func (s *Server) CA() *CA { return s.ca }

// ServiceAccountKey is the file of the key that signs service account tokens.
func (s *Server) ServiceAccountKey() string { return s.file("pki/sa.key") }

// Log is the file of kube-apiserver's log.
func (s *Server) Log() string { return s.file("kube-apiserver.log") }

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }
