package clusterpeer

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/kube"
)

// TestTell goes with a peer through its life: what becomes of it is told once, what
// passes by itself, or was never wrong, is not.
func TestTell(t *testing.T) {
	t.Parallel()
	var told []string
	m := &Manager{cfg: Config{Event: func(name, uid, of, reason, note string, good bool) {
		told = append(told, fmt.Sprintf("%s/%s %s %s %v: %s", name, uid, of, reason, good, note))
	}}}
	o := &object{ClusterPeer: kube.ClusterPeer{Metadata: kube.ClusterPeerMeta{Name: "west", UID: "u"}}}
	well := []kube.ClusterPeerCondition{
		condition(conditionAccepted, "True", "Accepted", ""), condition(conditionReady, "True", "Synced", "all is known"),
		condition(conditionClaims, "True", "Agreed", "agreed"), condition(conditionCertificate, "True", "Valid", "until then"),
	}
	with := func(changed ...kube.ClusterPeerCondition) []kube.ClusterPeerCondition {
		out := append([]kube.ClusterPeerCondition(nil), well...)
		for _, c := range changed {
			for i := range out {
				if out[i].Type == c.Type {
					out[i] = c
				}
			}
		}
		return out
	}
	for _, step := range []struct {
		what string
		now  []kube.ClusterPeerCondition
		want []string
	}{
		{"begins", with(condition(conditionReady, "False", "Connecting", "c"), condition(conditionClaims, "Unknown", "NotRead", ""), condition(conditionCertificate, "Unknown", "NotRead", "")), nil},
		{"connected", well, []string{"west/u Ready Synced true: all is known"}},
		{"the same", well, nil},
		{"away", with(condition(conditionReady, "False", "Disconnected", "no answer")), []string{"west/u Ready Disconnected false: no answer"}},
		{"comes", with(condition(conditionReady, "False", "Listing", "")), nil},
		{"back", well, []string{"west/u Ready Synced true: all is known"}},
		{"names more", with(condition(conditionClaims, "False", "Waiting", "10.0.0.0/8")), []string{"west/u ClaimsAgreed ClaimsWaiting false: 10.0.0.0/8"}},
		{"agreed", well, []string{"west/u ClaimsAgreed ClaimsAgreed true: agreed"}},
		{"not renewed", with(condition(conditionCertificate, "True", reasonNotRenewed, "who knows")), []string{"west/u CertificateValid CertificateNotRenewed false: who knows"}},
		{"ended", with(condition(conditionCertificate, "False", "Ended", "over")), []string{"west/u CertificateValid CertificateEnded false: over"}},
		{"spec is wrong", with(condition(conditionCertificate, "False", "Ended", "over"), condition(conditionAccepted, "False", reasonSecretMissing, "none")), []string{"west/u Accepted SecretMissing false: none"}},
	} {
		told = nil
		status := kube.ClusterPeerStatus{Conditions: step.now}
		m.tell(o, &status)
		o.status = status
		if diff := cmp.Diff(step.want, told); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}
