package pki

import "errors"

// Errors of this package, always wrapped with the file or the name they are about.
var (
	// ErrSubject is returned for a certificate or a request that does not name
	// exactly one cluster, role and name in the form of this package.
	ErrSubject = errors.New("not a certificate of this mesh")
	// ErrWrongCluster is returned when a directory holds another cluster's authority.
	ErrWrongCluster = errors.New("belongs to another cluster")
	// ErrKey is returned for a private key that is missing, readable by
	// everybody, malformed, or of another certificate.
	ErrKey = errors.New("private key unusable")
	// ErrCertificate is returned for a certificate file that holds no
	// certificate or one of the wrong kind.
	ErrCertificate = errors.New("certificate unusable")
	// ErrRequest is returned for a signing request that is malformed, not signed
	// by its own key, or for a key of a kind that is not taken.
	ErrRequest = errors.New("signing request unusable")
	// ErrExpired is returned for a certificate whose time is over.
	ErrExpired = errors.New("certificate expired")
	// ErrNotYetValid is returned for a certificate whose time has not begun,
	// which nearly always means that a clock is wrong.
	ErrNotYetValid = errors.New("certificate not yet valid")
	// ErrStage is returned for a step of a replacement that is not the next one.
	ErrStage = errors.New("not the next step")
	// ErrBusy is returned while another process renews the same certificate.
	ErrBusy = errors.New("another process renews it")
	// ErrUntrusted is returned for a certificate that was not signed by the
	// authority that is trusted.
	ErrUntrusted = errors.New("certificate signed by another authority")
	// ErrServerName is returned for a server whose certificate names something
	// else than what was dialled.
	ErrServerName = errors.New("certificate of another server")
)
