// Package timing names every duration by which the agent works, in one place; its test says which must be longer than which.
// All are measured by one process; none compares clocks of two machines.
package timing

import (
	"math/rand/v2"
	"time"
)

// Durations are the agent's. Tests shorten them.
type Durations struct {
	// Wait is how long the ADDs of one sandbox may wait in all, for an address of a full pool or for the API server: longer
	// than the default grace period of a pod (30 s, Kubernetes "Termination of Pods"), or ADDs would give up just before the
	// addresses of the pods that they replace come free.
	Wait time.Duration
	// Call ends a call a little before the plugin gives it up, which it does after 60 s.
	Call time.Duration
	// Request is how long the API server and the client give a request: what was not answered by then cannot happen much later.
	Request time.Duration
	// Settle is how long after a create was sent it is certain whether it happened: twice Request, see apiclient.
	Settle time.Duration
	// PutBack is how long a call that ended may still take to release what it claimed.
	PutBack time.Duration
	// Release is how long after the DEL of its container an address is released at the latest, though its interface is there,
	// unless that is seen to have it.
	Release time.Duration
	// Made is how long after its ADD an interface is made at the latest: from then on one that is missing is gone.
	Made time.Duration
	// Announce is how long after its answer an address may be missing on its interface; one that appears later is not announced.
	Announce time.Duration
	// Notes is how often the notes of DELs are read.
	Notes time.Duration
	// Rescan is when after its start the agent lists its node for the second time: when nothing that an agent before it sent
	// can come any more.
	Rescan time.Duration
	// Look is how often the agent looks whether namespaces of its addresses are gone; List is how often it lists its node's
	// entries for that.
	Look, List time.Duration
	// Republish is how long after it was written a SpiderEndpoint is looked for again: one that somebody deleted comes back.
	Republish time.Duration
	// EditArrival is how long an ADD waits for a pool that can give nothing at all: an edit that is on its way arrives by then.
	EditArrival time.Duration
	// Stop is how long calls in progress may take when the agent is to stop.
	Stop time.Duration
	// Remember is how long a deleted container is known as such: an ADD that began before its DEL and arrives after it, from a
	// plugin process that outlived its caller, must not claim anything.
	Remember time.Duration
	// Sync is how long the first lists of watches may take before the agent serves without them.
	Sync time.Duration
	// Reassert is for how long after the API server was found put back to an earlier state no pod gets a new address: by then
	// each agent that runs has found the same (in one look), has made the entries of its living containers again and, in a second
	// look, freed those that came back and nobody bears; and in a third it has made again what those stood in the way of.
	Reassert time.Duration
}

// Production are the durations of an agent on a node.
func Production() Durations {
	return Durations{
		Wait:        45 * time.Second,
		Call:        55 * time.Second,
		Request:     10 * time.Second,
		Settle:      20 * time.Second,
		PutBack:     10 * time.Second,
		Release:     2 * time.Second,
		Made:        4 * time.Minute,
		Announce:    5 * time.Second,
		Notes:       10 * time.Second,
		Rescan:      30 * time.Second,
		Look:        20 * time.Second,
		List:        10 * time.Minute,
		Republish:   10 * time.Minute,
		EditArrival: 2 * time.Second,
		Stop:        5 * time.Second,
		Remember:    10 * time.Minute,
		Sync:        time.Minute,
		Reassert:    75 * time.Second,
	}
}

// Jitter spreads what many nodes would do at the same moment: it returns three quarters of d to d.
func Jitter(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d - rand.N(d/4)
}
