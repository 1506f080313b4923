// Package state keeps what of an API server's data directory must outlive it in the
// Kubernetes API, for clusters that give its pod no disk: a pod that is made anew
// then is the same cluster to its agents and peers.
//
// # What is kept
//
// The files and the keys of etcd that Config names: the authority with its keys and
// how far its replacement is, the clusters that joined and the pairs by which they
// are read, invitations and tokens, the numbers of identities and mesh addresses.
// What is read again at each start is not kept: workloads, ClusterPeers, and what
// peers publish. Nor is which store etcd is: one that begins anew has to be another one
// to those who follow it, since its revisions begin anew, too.
//
// # How it is kept
//
// As one document: packed, cut into parts, the first in slot 0 beside a head that
// names the slots of the others and the checksum of all. Parts that the present head
// names are never written over; the head comes last, in one request. So whoever reads
// gets one generation whole, or an error.
//
// # Who may write
//
// Whoever begins with a Secret makes the head its own, as the next generation, before it
// uses anything of it. Each write is bound to the version of what was read or written
// last. A process that another one took over from finds a head that is not its own,
// writes nothing any more, and ends with ErrTaken. A head of a generation before its
// own, out of a backup, it writes over.
//
// # What a crash loses
//
// What changes by a call at the gateway (clusters that join or leave, invitations,
// tokens, the steps of replacing the authority) is written before the call is
// answered: see Flush. A new authority is, before anybody can reach it. All else is
// written Pause after it changed, or later for a large state, besides the second by
// which files are behind memory. If a crash comes first, then:
//
//   - an identity that was given in that time gets its number by the hash of its
//     labels again, the same one but where two of the lost ones clash. Peers
//     list everything again then, as etcd is another store, so no number is left
//     that means what it meant before;
//   - a pair or an authority of a peer that was renewed is fetched again from the pair
//     before, which ends a third of its time later at the earliest;
//   - who was seen with a certificate of which authority is learned again.
package state
