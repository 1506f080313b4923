package join

// Kept returns the prefixes of the keys in etcd that an API server without a disk has
// to keep elsewhere: nobody could tell it again.
func Kept() []string {
	return []string{memberPrefix, invitationPath, invitationOfUsed, admissionKey}
}
