package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
)

// hurry is how long before its end a certificate that is not renewed is a reason
// not to be ready: time enough for a person to do something about it.
const hurry = 48 * time.Hour

// Certificate is one that its holder renews by itself.
type Certificate struct {
	// Holder is what a person calls it, such as "agent n1".
	Holder string
	Ends   time.Time
	// Problem is why it is not renewed though it should be.
	Problem string
}

// certificates is the condition that none ends soon without being renewed. It says
// of the first to end how long it is good, and of each what stands against its
// renewal.
func certificates(all []Certificate, now time.Time) *adminpb.Condition {
	c := &adminpb.Condition{Name: "certificates", Ready: true}
	all = slices.SortedFunc(slices.Values(all), func(a, b Certificate) int { return a.Ends.Compare(b.Ends) })
	var texts []string
	for i, cert := range all {
		left := cert.Ends.Sub(now)
		if left <= 0 || cert.Problem != "" && left < hurry {
			c.Ready = false
		}
		switch {
		case cert.Problem != "" || left <= 0:
			texts = append(texts, fmt.Sprintf("that of %s %s and is not renewed%s", cert.Holder, ends(left), because(cert.Problem)))
		case i == 0:
			texts = append(texts, fmt.Sprintf("the first to end, that of %s, %s", cert.Holder, ends(left)))
		}
	}
	c.Reason = strings.Join(first(texts, maxCertificates), "; ")
	return c
}

// maxCertificates is of how many a line speaks.
const maxCertificates = 5

func first(texts []string, n int) []string {
	if len(texts) <= n {
		return texts
	}
	return append(slices.Clone(texts[:n]), fmt.Sprintf("and %d more", len(texts)-n))
}

func because(problem string) string {
	if problem == "" {
		return ""
	}
	return ": " + problem
}

// ends is rounded down, to days where there are some.
func ends(left time.Duration) string {
	switch {
	case left <= 0:
		return fmt.Sprintf("ended %s ago", (-left).Round(time.Minute))
	case left < 48*time.Hour:
		return fmt.Sprintf("ends in %s", left.Truncate(time.Second))
	default:
		return fmt.Sprintf("ends in %d days", int(left.Hours())/24)
	}
}
