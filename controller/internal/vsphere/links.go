package vsphere

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// linkTimeout bounds a connect to a tether and the exchange of versions.
const linkTimeout = 15 * time.Second

// ErrClosed says that the Client was closed.
var ErrClosed = errors.New("the connection to the host is closed")

// links keeps one link session per VM: it costs several round trips to set up, and streams within it cost one.
type links struct {
	dial func(ctx context.Context, vm string, port uint32) (net.Conn, error) // vm is a moref value

	mu     sync.Mutex
	byVM   map[Ref]*cachedLink
	closed bool
}

// cachedLink is a session or the attempt to get one.
type cachedLink struct {
	ready  chan struct{} // closed when client or err is set
	client *link.Client
	err    error
}

func newLinks(dial func(context.Context, string, uint32) (net.Conn, error)) *links {
	return &links{dial: dial, byVM: map[Ref]*cachedLink{}}
}

// Link returns the session with a VM's tether, made when there is none yet. It belongs to the client: callers do not
// close it. ctx bounds the wait alone: an attempt that others wait for goes on.
func (c *Client) Link(ctx context.Context, vm Ref) (*link.Client, error) {
	cached, err := c.links.get(vm)
	if err != nil {
		return nil, err
	}
	select {
	case <-cached.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot reach the tether of VM %s: %w", vm.Value, ctx.Err())
	}
	if cached.err != nil {
		return nil, fmt.Errorf("cannot reach the tether of VM %s: %w", vm.Value, cached.err)
	}
	return cached.client, nil
}

func (l *links) get(vm Ref) (*cachedLink, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("cannot reach the tether of VM %s: %w", vm.Value, ErrClosed)
	}
	if cached := l.byVM[vm]; cached != nil && !cached.over() {
		return cached, nil
	}
	cached := &cachedLink{ready: make(chan struct{})}
	l.byVM[vm] = cached
	go l.connect(vm, cached)
	return cached, nil
}

// over reports whether the session has ended or the attempt has failed.
func (c *cachedLink) over() bool {
	select {
	case <-c.ready:
	default:
		return false
	}
	if c.err != nil {
		return true
	}
	select {
	case <-c.client.Done():
		return true
	default:
		return false
	}
}

// connect makes a session and keeps it in the cache until it ends.
func (l *links) connect(vm Ref, cached *cachedLink) {
	cached.client, cached.err = l.open(vm)
	l.mu.Lock()
	if l.closed && cached.client != nil {
		cached.client.Close()
	}
	close(cached.ready)
	l.mu.Unlock()
	if cached.err == nil {
		<-cached.client.Done()
	}
	l.mu.Lock()
	if l.byVM[vm] == cached {
		delete(l.byVM, vm)
	}
	l.mu.Unlock()
}

func (l *links) open(vm Ref) (*link.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), linkTimeout)
	defer cancel()
	conn, err := l.dial(ctx, vm.Value, link.PortLink)
	if err != nil {
		return nil, err
	}
	return link.NewClient(ctx, conn)
}

// close ends all sessions.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, cached := range l.byVM {
		select {
		case <-cached.ready:
			if cached.client != nil {
				cached.client.Close()
			}
		default: // connect sees closed
		}
	}
}
