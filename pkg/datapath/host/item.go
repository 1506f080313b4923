package host

// The marks of what is ours. They are as good as a format: a later version finds
// by them what an earlier one left.
const (
	// Mark is the alias of the tunnel device, the name of the netfilter table,
	// and the first word of the comment of each netfilter rule.
	Mark = "causeway"
	// Protocol is the protocol number of our rules and routes.
	Protocol = 203
	// RulePriority is where our rules stand: behind the table of the node's own
	// addresses, before those of cloud CNIs that choose by a pod's address.
	RulePriority = 100
)

// Kind says what an Item is.
type Kind string

// The kinds of what is ours on a node.
const (
	Device       Kind = "device"
	Address      Kind = "address"
	Rule         Kind = "rule"
	TableRoute   Kind = "route"
	FilterTable  Kind = "nftables table"
	ForwardRule  Kind = "forward rule"
	DeviceConfig Kind = "setting"
)

// Item is one thing in the kernel that is ours.
type Item struct {
	Kind Kind
	// Name is what the kernel's own tools call it.
	Name string
	// Mark is how it is known to be ours.
	Mark string
}

// Problem is what a person should know, or act upon.
type Problem struct {
	// What is wrong, Where it is, and what to Do about it.
	What, Where, Do string
}
