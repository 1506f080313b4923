package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// checkTimeout is how long a request may take that is answered with one object.
const checkTimeout = 30 * time.Second

// identity is which cluster is followed.
type identity struct {
	file string
	log  *slog.Logger

	mu  sync.Mutex
	uid string // "" before the file was read
}

// checkCluster returns an error when the API server is that of another cluster
// than before: a kubeconfig that was mixed up, or an etcd that was lost. By its own
// account all that was there is gone, and what is published would go with it.
func (c *Client) checkCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var list corev1.NamespaceList
	o := metav1.ListOptions{FieldSelector: "metadata.name=" + metav1.NamespaceSystem, Limit: 1}
	err := c.groups[corev1.SchemeGroupVersion].Get().Resource("namespaces").
		VersionedParams(&o, c.params).MaxRetries(0).Do(ctx).Into(&list)
	if err != nil {
		return &checkError{err}
	}
	if len(list.Items) == 0 {
		return errNoSystem
	}
	return c.identity.check(string(list.Items[0].UID))
}

// check compares with what the file says, or writes it for the first time.
func (i *identity) check(uid string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.uid == "" {
		text, err := os.ReadFile(i.file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := file.Write(i.file, []byte(uid+"\n"), 0o600); err != nil {
				return fmt.Errorf("keep which cluster is followed: %w", err)
			}
			i.log.Info("this cluster is followed in its Kubernetes API from now on, and no other", "uid", uid, "file", i.file)
			text = []byte(uid)
		case err != nil:
			return fmt.Errorf("read which cluster is followed: %w", err)
		}
		i.uid = strings.TrimSpace(string(text))
	}
	if i.uid != uid {
		return fmt.Errorf("%w: its namespace kube-system has the uid %s, and that of the cluster that was followed before is %s; "+
			"give the credentials of that one, or, if the cluster was made anew, stop, remove %s, and start again",
			ErrOtherCluster, uid, i.uid, i.file)
	}
	return nil
}

// checkHistory returns an error that leads to a new listing when what the API
// server knows is older than what a watch is to go on from: its etcd was restored
// from a backup. A watch from the future would be silent until the revisions
// have caught up, and what changed meanwhile would never be told.
func (f *follower) checkHistory(seen string) error {
	ctx, cancel := context.WithTimeout(f.ctx, checkTimeout)
	defer cancel()
	list := f.Resource.List.DeepCopyObject()
	o := metav1.ListOptions{Limit: 1}
	err := f.rest.Get().Resource(f.Resource.Plural).VersionedParams(&o, f.client.params).MaxRetries(0).Do(ctx).Into(list)
	if err != nil {
		return err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	if older(m.GetResourceVersion(), seen) {
		return apierrors.NewResourceExpired(fmt.Sprintf("the API server is at revision %s, and has been at %s", m.GetResourceVersion(), seen))
	}
	return nil
}

// older compares revisions; those that are no numbers cannot be compared.
func older(revision, than string) bool {
	a, errA := strconv.ParseUint(revision, 10, 64)
	b, errB := strconv.ParseUint(than, 10, 64)
	return errA == nil && errB == nil && a < b
}
