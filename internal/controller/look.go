package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
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
	fewNodes = 8   // with more all nodes are LISTed, if that are many of them

	// nodeShare is which part of all nodes are many, for a LIST has the others too, and a Node is large: one of eight.
	nodeShare = 8
)

// sight is the second look: what the API server said of pods and nodes after the first look. What it was not asked, or did not
// answer, is unknown.
type sight struct {
	live client.Reader
	// allNodes is how many Nodes there are, by the watch.
	allNodes int

	mu sync.Mutex
	// pods are those of the entries; nil of one that does not exist. What the LIST of one node does not have says nothing of a
	// pod of the same name on another.
	pods  map[holder]*podFact
	nodes map[string]nodeState
	// err is the first of the reads that failed.
	err error
	// asked is how many requests it took.
	asked int
}

// holder is the pod, "namespace/name", and node that an entry names.
type holder struct{ node, pod string }

func holderOf(e Entry) holder { return holder{e.Node, e.Pod} }

// look reads what verdicts about these entries rest on, in a cluster of so many Nodes.
func look(ctx context.Context, live client.Reader, allNodes int, entries []Entry) *sight {
	s := &sight{live: live, allNodes: allNodes, pods: map[holder]*podFact{}, nodes: map[string]nodeState{}}
	var all errgroup.Group
	all.SetLimit(workers)
	for _, read := range s.plan(entries) {
		all.Go(func() error {
			if err := read(ctx); err != nil {
				s.mu.Lock()
				s.err = cmp.Or(s.err, err)
				s.mu.Unlock()
			}
			return nil
		})
	}
	_ = all.Wait() // what failed is unknown
	return s
}

// plan are the reads that tell all of these entries, with few requests.
func (s *sight) plan(entries []Entry) (reads []func(context.Context) error) {
	wanted, byNode := map[holder]bool{}, map[string][]holder{}
	for _, e := range entries {
		if h := holderOf(e); !wanted[h] {
			wanted[h] = true
			byNode[e.Node] = append(byNode[e.Node], h)
		}
	}
	for node, holders := range byNode {
		if len(holders) > fewPods {
			reads = append(reads, func(ctx context.Context) error {
				return s.listPods(ctx, holders, client.MatchingFields{"spec.nodeName": node})
			})
			continue
		}
		for _, h := range holders {
			reads = append(reads, func(ctx context.Context) error { return s.readPod(ctx, h) })
		}
	}
	if len(reads) > manyPods {
		reads = []func(context.Context) error{func(ctx context.Context) error { return s.listPods(ctx, slices.Collect(maps.Keys(wanted))) }}
	}
	if len(byNode) > max(fewNodes, s.allNodes/nodeShare) {
		return append(reads, func(ctx context.Context) error { return s.listNodes(ctx, slices.Collect(maps.Keys(byNode))) })
	}
	for node := range byNode {
		reads = append(reads, func(ctx context.Context) error { return s.readNode(ctx, node) })
	}
	return reads
}

// get reads one object; exists is false only if the API server says that there is none.
func (s *sight) get(ctx context.Context, key client.ObjectKey, o client.Object) (exists bool, err error) {
	s.count()
	err = s.live.Get(ctx, key, o)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}

// pages calls each with all pages of a list; it fails if they do not come to their end.
func pages[T any, L interface {
	*T
	client.ObjectList
}](ctx context.Context, s *sight, each func(L), of ...client.ListOption) error {
	for next := ""; ; {
		s.count()
		list := L(new(T))
		if err := s.live.List(ctx, list, append(of, client.Limit(podPage), client.Continue(next))...); err != nil {
			return err
		}
		each(list)
		if next = list.GetContinue(); next != "" {
			continue
		}
		if n := list.GetRemainingItemCount(); n != nil && *n > 0 {
			return fmt.Errorf("the answer ends and %d are missing", *n)
		}
		return nil
	}
}

func (s *sight) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
}

// absent reports whether an error says that there is no such object. There being no such path, as behind a proxy, says nothing.
func absent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

func (s *sight) readPod(ctx context.Context, h holder) error {
	pod, p := podOf(Entry{Pod: h.pod}), &corev1.Pod{}
	exists, err := s.get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: pod.Name}, p)
	if err != nil {
		return fmt.Errorf("read pod %s: %w", h.pod, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[h] = nil
	if exists {
		f := factOf(p)
		s.pods[h] = &f
	}
	return nil
}

// listPods reads pods, which are all that there are of these names among those of the options.
func (s *sight) listPods(ctx context.Context, wanted []holder, of ...client.ListOption) error {
	found := map[string]*podFact{}
	for _, h := range wanted {
		found[h.pod] = nil
	}
	err := pages(ctx, s, func(list *corev1.PodList) {
		for i := range list.Items {
			key := list.Items[i].Namespace + "/" + list.Items[i].Name
			if _, wanted := found[key]; wanted {
				f := factOf(&list.Items[i])
				found[key] = &f
			}
		}
	}, of...)
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range wanted {
		s.pods[h] = found[h.pod]
	}
	return nil
}

func (s *sight) readNode(ctx context.Context, name string) error {
	n := &corev1.Node{}
	exists, err := s.get(ctx, client.ObjectKey{Name: name}, n)
	if err != nil {
		return fmt.Errorf("read node %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[name] = nodeDeleted
	if exists {
		s.nodes[name] = stateOfNode(n)
	}
	return nil
}

func (s *sight) listNodes(ctx context.Context, wanted []string) error {
	found := nodeStates{}
	err := pages(ctx, s, func(list *corev1.NodeList) {
		for i := range list.Items {
			found[list.Items[i].Name] = stateOfNode(&list.Items[i])
		}
	})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range wanted {
		s.nodes[name] = found.of(name)
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
	if p, read := s.pods[holderOf(e)]; read {
		f.pod, f.grace = p.of(e)
	}
	return f
}
