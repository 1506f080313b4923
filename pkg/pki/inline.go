package pki

import "crypto/tls"

// InlineConfig is ClientConfig for what is no file yet: PEM of the authority that the
// server's certificate must be from, and of what is shown to it. Errors call them the
// CA, the certificate and the key of doc.
func InlineConfig(doc string, caPEM, certPEM, keyPEM []byte, names ...string) (*tls.Config, error) {
	c := &client{names: names, load: func() (*credentials, error) {
		c := &credentials{certDoc: "the certificate of " + doc, caDoc: "the CA of " + doc}
		return c, c.parse(caPEM, certPEM, keyPEM)
	}}
	return c.config()
}
