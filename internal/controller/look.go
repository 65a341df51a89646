package controller

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// How many objects are read one by one before a LIST is cheaper. All pods of the cluster are LISTed only when there would be
// very many requests otherwise: by node no pod is read in vain but those of the very nodes in question, and a node that is lost
// has few or none left. The API server finds them by an index.
const (
	fewPods  = 4   // of a node; with more its pods are LISTed
	manyPods = 256 // requests for pods; with more all pods are LISTed
	fewNodes = 8
)

// sight is the second look: what the API server said of pods and nodes after the first look. What it was not asked, or did not
// answer, is unknown.
type sight struct {
	live client.Reader

	mu    sync.Mutex
	pods  map[string]*podFact // by "namespace/name"; nil of one that does not exist
	nodes map[string]nodeState
	errs  []error
}

// look reads what verdicts about these entries rest on.
func look(ctx context.Context, live client.Reader, entries []Entry) *sight {
	s := &sight{live: live, pods: map[string]*podFact{}, nodes: map[string]nodeState{}}
	var all errgroup.Group
	all.SetLimit(workers)
	for _, read := range s.plan(entries) {
		all.Go(func() error {
			if err := read(ctx); err != nil {
				s.mu.Lock()
				s.errs = append(s.errs, err)
				s.mu.Unlock()
			}
			return nil
		})
	}
	_ = all.Wait() // what failed is in errs, and unknown
	return s
}

// plan are the reads that tell all of these entries, with few requests.
func (s *sight) plan(entries []Entry) (reads []func(context.Context) error) {
	byNode := map[string]map[string]bool{}
	for _, e := range entries {
		if byNode[e.Node] == nil {
			byNode[e.Node] = map[string]bool{}
		}
		byNode[e.Node][e.Pod] = true
	}
	wanted := map[string]bool{}
	for node, pods := range byNode {
		for pod := range pods {
			wanted[pod] = true
			if len(pods) <= fewPods {
				reads = append(reads, func(ctx context.Context) error { return s.readPod(ctx, pod) })
			}
		}
		if len(pods) > fewPods {
			reads = append(reads, func(ctx context.Context) error {
				return s.listPods(ctx, pods, client.MatchingFields{"spec.nodeName": node})
			})
		}
	}
	if len(reads) > manyPods {
		reads = []func(context.Context) error{func(ctx context.Context) error { return s.listPods(ctx, wanted) }}
	}
	if len(byNode) > fewNodes {
		return append(reads, func(ctx context.Context) error { return s.listNodes(ctx, byNode) })
	}
	for node := range byNode {
		reads = append(reads, func(ctx context.Context) error { return s.readNode(ctx, node) })
	}
	return reads
}

// absent reports whether an error says that there is no such object. There being no such path, as behind a proxy, says nothing.
func absent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

func (s *sight) readPod(ctx context.Context, key string) error {
	pod := podOf(Entry{Pod: key})
	p := &corev1.Pod{}
	err := s.live.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: pod.Name}, p)
	if err != nil && !absent(err) {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[key] = nil
	if err == nil {
		f := factOf(p)
		s.pods[key] = &f
	}
	return nil
}

// listPods reads the pods of these names, which are all that there are among those of the options. Nothing is known by a LIST
// that did not come to its end.
func (s *sight) listPods(ctx context.Context, wanted map[string]bool, of ...client.ListOption) error {
	found := map[string]*podFact{}
	for next := ""; ; {
		var list corev1.PodList
		if err := s.live.List(ctx, &list, append(of, client.Limit(podPage), client.Continue(next))...); err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			key := list.Items[i].Namespace + "/" + list.Items[i].Name
			if wanted[key] {
				f := factOf(&list.Items[i])
				found[key] = &f
			}
		}
		if next = list.Continue; next == "" {
			if err := truncated(&list.ListMeta); err != nil {
				return fmt.Errorf("list pods: %w", err)
			}
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range wanted {
		s.pods[key] = found[key]
	}
	return nil
}

// truncated is an error if a LIST ends though there is more.
func truncated(m *metav1.ListMeta) error {
	if n := m.RemainingItemCount; n != nil && *n > 0 {
		return fmt.Errorf("the answer ends and %d are missing", *n)
	}
	return nil
}

func (s *sight) readNode(ctx context.Context, name string) error {
	n := &corev1.Node{}
	err := s.live.Get(ctx, client.ObjectKey{Name: name}, n)
	if err != nil && !absent(err) {
		return fmt.Errorf("read node %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[name] = nodeDeleted
	if err == nil {
		s.nodes[name] = stateOfNode(n)
	}
	return nil
}

func (s *sight) listNodes(ctx context.Context, wanted map[string]map[string]bool) error {
	found := map[string]nodeState{}
	for next := ""; ; {
		var list corev1.NodeList
		if err := s.live.List(ctx, &list, client.Limit(podPage), client.Continue(next)); err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		for i := range list.Items {
			found[list.Items[i].Name] = stateOfNode(&list.Items[i])
		}
		if next = list.Continue; next == "" {
			if err := truncated(&list.ListMeta); err != nil {
				return fmt.Errorf("list nodes: %w", err)
			}
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range wanted {
		if s.nodes[name] = found[name]; found[name] == nodeUnknown {
			s.nodes[name] = nodeDeleted
		}
	}
	return nil
}

// stateOfNode is whether a node that exists is ready.
func stateOfNode(n *corev1.Node) nodeState {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nodeReady
		}
	}
	return nodeNotReady
}

// of is what was read about an entry.
func (s *sight) of(e Entry) findings {
	f := findings{node: s.nodes[e.Node]}
	if p, read := s.pods[e.Pod]; read {
		f.pod, f.grace = p.of(e)
	}
	return f
}
