package merge

// Address is the address itself, or the prefix of a range.
func (e Entry) Address() string {
	if e.Prefix.IsSingleIP() {
		return e.Prefix.Addr().String()
	}
	return e.Prefix.String()
}

// LabelList returns the labels, each as source:key=value.
func (e Entry) LabelList() []string {
	var out []string
	for key, value := range e.Labels.All() {
		out = append(out, key+"="+value)
	}
	return out
}
