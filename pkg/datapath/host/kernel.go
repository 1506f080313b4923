package host

type kernel struct{}

func openKernel() (*kernel, error) { return &kernel{}, nil }
func (k *kernel) close() error     { return nil }
