// Package workload is what the echo program does: a server that names itself
// over TCP, HTTP and UDP, and clients that ask it, once or for a while.
package workload

import "fmt"

// Identity names one running workload.
type Identity struct {
	Cluster   string `json:"cluster"`
	Node      string `json:"node"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
}

// String returns cluster/namespace/pod, the form that counts are kept by.
func (i Identity) String() string {
	return fmt.Sprintf("%s/%s/%s", i.Cluster, i.Namespace, i.Pod)
}

// Answer is what a server says: who it is and what it saw of the connection.
type Answer struct {
	Identity
	// Local is the address that the connection arrived at, Remote the one that
	// it came from, both as the server's kernel tells.
	Local  string `json:"local"`
	Remote string `json:"remote"`
}

// Result is one answer, or why there was none, as the client saw it.
type Result struct {
	Answer
	// Peer is the far address that the client's own socket names.
	Peer string `json:"peer,omitempty"`
	// Bytes is how many were sent, and came back as they were.
	Bytes int `json:"bytes,omitempty"`
	// MSS is what the client's kernel would put in one segment of TCP at the end,
	// in bytes.
	MSS int `json:"mss,omitempty"`
	// Millis is the time from before the connect to after the answer.
	Millis float64 `json:"ms"`
	// Error is empty when there was an answer.
	Error string `json:"error,omitempty"`
}

// The protocols that a server answers and a client can ask by.
const (
	TCP  = "tcp"
	UDP  = "udp"
	HTTP = "http"
)
