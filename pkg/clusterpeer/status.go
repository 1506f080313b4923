package clusterpeer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// Origins of a peer, as `causeway peers` shows them, too.
const (
	OriginResource = "ClusterPeer"
	originJoined   = "joined"
	originFile     = "file"
)

// The conditions of a resource.
const (
	conditionAccepted    = "Accepted"
	conditionReady       = "Ready"
	conditionClaims      = "ClaimsAgreed"
	conditionCertificate = "CertificateValid"
)

// reasonNotRenewed is that of a certificate that is good and does not get another.
const reasonNotRenewed = "NotRenewed"

// report keeps the status of the resources until ctx ends.
func (m *Manager) report(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if m.cfg.Writes() {
			m.reportOnce(ctx, time.Now())
		}
	}
}

// write is a status that is to be written.
type write struct {
	name   string
	status kube.ClusterPeerStatus
}

func (m *Manager) reportOnce(ctx context.Context, now time.Time) {
	for _, w := range m.due(now) {
		err := m.cfg.API.PutClusterPeerStatus(ctx, w.name, &w.status)
		if ctx.Err() != nil {
			return
		}
		m.metrics.wrote(err)
		m.mu.Lock()
		if o := m.objects[w.name]; o != nil && err == nil {
			m.tell(o, &w.status)
			o.status = w.status
		}
		m.mu.Unlock()
		if err != nil && !errors.Is(err, kube.ErrGone) {
			m.cfg.Logger.Warn("status of the ClusterPeer is not written, will retry", "cluster", w.name, "error", err)
		}
	}
}

// tell makes events of the conditions that are others in a new status. What a peer
// goes through while it is connected to is none, nor what is not known yet.
func (m *Manager) tell(o *object, now *kube.ClusterPeerStatus) {
	for _, c := range now.Conditions {
		var old kube.ClusterPeerCondition
		for _, one := range o.status.Conditions {
			if one.Type == c.Type {
				old = one
			}
		}
		if old.Status == c.Status && old.Reason == c.Reason || c.Status == "Unknown" {
			continue
		}
		good, reason := c.Status == "True" && c.Reason != reasonNotRenewed, c.Reason
		switch c.Type {
		case conditionClaims:
			reason = "Claims" + strings.TrimPrefix(reason, "Claims")
		case conditionCertificate:
			reason = "Certificate" + reason
		case conditionReady:
			if passing := []string{"NotRead", "NotJoined", "Connecting", "Listing", "Waiting"}; slices.Contains(passing, reason) {
				continue
			}
		}
		if good && c.Type != conditionReady && (old.Status == "" || old.Status == "Unknown") {
			continue // it was never wrong
		}
		m.cfg.Event(o.Metadata.Name, o.Metadata.UID, c.Type, reason, c.Message, good)
	}
}

// due returns what differs from what was written, of objects that were not written a
// moment ago.
func (m *Manager) due(now time.Time) (out []write) {
	peers := map[string]peer.Status{}
	for _, p := range m.cfg.Peers() {
		peers[p.Name] = p
	}
	beliefs := m.cfg.Beliefs()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.objects)) {
		o := m.objects[name]
		if now.Sub(o.at) < statusPause {
			continue
		}
		var p *peer.Status
		if one, ok := peers[name]; ok {
			p = &one
		}
		status := m.statusOf(o, p, beliefs[name], now)
		if !reflect.DeepEqual(status, o.status) {
			o.at = now
			out = append(out, write{name, status})
		}
	}
	return out
}

// statusOf returns the status of an object; p is nil where there is no such peer.
func (m *Manager) statusOf(o *object, p *peer.Status, b peer.Belief, now time.Time) kube.ClusterPeerStatus {
	out := kube.ClusterPeerStatus{ObservedGeneration: o.Metadata.Generation}
	if p != nil {
		out.ID, out.State, out.Origin = int64(p.ID), string(p.State), m.origin(p)
		for reason, n := range p.Refused {
			if n == 0 {
				continue
			}
			if out.RefusedByReason == nil {
				out.RefusedByReason = map[string]int64{}
			}
			out.RefusedByReason[reason] = int64(n)
			out.Refused += int64(n)
		}
		out.WaitingRanges = int64(p.Waiting)
		if ends := p.Certificate.Ends; !ends.IsZero() {
			days := int64(max(0, ends.Sub(now)) / (24 * time.Hour))
			out.CertificateEnds, out.CertificateDaysLeft = ends.UTC().Format(time.RFC3339), &days
		}
	}
	for _, c := range []kube.ClusterPeerCondition{m.accepted(o, p), ready(o, p), claims(p, b), certificate(p, now)} {
		c.ObservedGeneration, c.LastTransitionTime = o.Metadata.Generation, now.UTC().Format(time.RFC3339)
		for _, old := range o.status.Conditions {
			if old.Type == c.Type && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		out.Conditions = append(out.Conditions, c)
	}
	return out
}

// origin says which way a peer is read, "" while its file can not be used.
func (m *Manager) origin(p *peer.Status) string {
	if p.File == "" {
		return ""
	}
	switch filepath.Dir(p.File) {
	case filepath.Clean(m.cfg.Dir):
		return OriginResource
	case filepath.Clean(m.cfg.Files):
		return originFile
	}
	return originJoined
}

func condition(of, status, reason, message string) kube.ClusterPeerCondition {
	return kube.ClusterPeerCondition{Type: of, Status: status, Reason: reason, Message: message}
}

// accepted says whether the spec is in force.
func (m *Manager) accepted(o *object, p *peer.Status) kube.ClusterPeerCondition {
	switch {
	case o.refusal != nil:
		return condition(conditionAccepted, "False", o.refusal.reason, o.refusal.text+"; what was accepted before stays in force")
	case p != nil && m.origin(p) == originFile:
		return condition(conditionAccepted, "False", "DeclaredElsewhere",
			fmt.Sprintf("the peer file %s says how %s is read and what is believed of it, and counts before a ClusterPeer", p.File, p.Name))
	}
	return condition(conditionAccepted, "True", "Accepted", "the spec is in force")
}

// ready says whether the peer is read whole, and is the one that is meant.
func ready(o *object, p *peer.Status) kube.ClusterPeerCondition {
	switch {
	case p == nil && o.Spec.SecretRef == nil:
		return condition(conditionReady, "False", "NotJoined",
			"no cluster of that name has joined: `causeway connect`, `causeway join`, or give secretRef")
	case p == nil:
		return condition(conditionReady, "False", "NotRead", "the cluster is not read")
	case p.ID != 0 && o.Spec.ID != 0 && int64(p.ID) != o.Spec.ID:
		return condition(conditionReady, "False", "OtherID", fmt.Sprintf(
			"the cluster says that its id is %d, and spec.id is %d: find out whether this is the cluster that is meant; if it is, put spec.id right, "+
				"else delete the ClusterPeer, as what the cluster publishes is in use meanwhile", p.ID, o.Spec.ID))
	case p.State == peer.Synced:
		return condition(conditionReady, "True", "Synced", "all that the cluster publishes is known and followed")
	}
	state := string(p.State)
	reason := strings.ToUpper(state[:1]) + state[1:]
	message := p.Reason
	if message == "" {
		message = "the cluster is " + state
	}
	return condition(conditionReady, "False", reason, message)
}

// claims says whether all that the peer names is agreed.
func claims(p *peer.Status, b peer.Belief) kube.ClusterPeerCondition {
	if p == nil {
		return condition(conditionClaims, "Unknown", "NotRead", "")
	}
	if len(b.Lost) > 0 {
		var lost []string
		for c, by := range b.Lost {
			lost = append(lost, fmt.Sprintf("%s, which %s has", c.Range, by))
		}
		slices.Sort(lost)
		return condition(conditionClaims, "False", "Lost", "another cluster claimed first: "+some(lost))
	}
	if len(b.Waiting) > 0 {
		waiting := slices.Clone(b.Waiting)
		slices.SortFunc(waiting, trust.CompareClaims)
		var texts []string
		for _, c := range waiting {
			texts = append(texts, fmt.Sprintf("%s for %s", c.Range, c.Class))
		}
		what := "; to agree, add it to spec.claims"
		if !b.Declared {
			what = "; to agree, `causeway peers approve " + p.Name + "`, or give spec.claims"
		}
		return condition(conditionClaims, "False", "Waiting", "the cluster names more than it claims: "+some(texts)+what)
	}
	return condition(conditionClaims, "True", "Agreed", "the cluster names nothing outside of its claims")
}

// some names the first of many.
func some(texts []string) string {
	const most = 5
	if len(texts) > most {
		texts = append(slices.Clone(texts[:most]), fmt.Sprintf("%d more", len(texts)-most))
	}
	return strings.Join(texts, ", ")
}

// certificate says how long the peer can be read.
func certificate(p *peer.Status, now time.Time) kube.ClusterPeerCondition {
	switch {
	case p == nil || p.Certificate.Ends.IsZero():
		return condition(conditionCertificate, "Unknown", "NotRead", "")
	case !now.Before(p.Certificate.Ends):
		return condition(conditionCertificate, "False", "Ended", "the certificate with which the cluster is read has ended: give another in the Secret, or have it join again")
	case p.Certificate.Problem != "":
		return condition(conditionCertificate, "True", reasonNotRenewed, p.Certificate.Problem)
	}
	return condition(conditionCertificate, "True", "Valid", "until "+p.Certificate.Ends.UTC().Format(time.RFC3339))
}
