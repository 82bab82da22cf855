package vsphere

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
)

// Ref names a virtual machine (a managed object reference).
type Ref = types.ManagedObjectReference

// Config says which host to use and as whom.
type Config struct {
	// URL of the vim25 endpoint, "https://host:8989/sdk"; scheme and path may be left out.
	URL                string
	Username, Password string
	// CAFile is a PEM file with the certificate authorities to trust for this host; empty: the system's.
	CAFile string
	// Insecure accepts any certificate.
	Insecure bool
	// Network is vSphere's name of the network that containers are in by default; empty: hostapi.DefaultNetwork, or the only one.
	Network string
	// Log gets what goes wrong in the background; nil: discarded.
	Log *slog.Logger
}

// Client is a session with one host. Its methods may be called by several goroutines. Errors wrap the class of the
// fault from package errdefs, where it has one.
type Client struct {
	*inventory
	soap    *soap.Client
	vim     *vim25.Client
	session *session
	host    *hostclient.Client // what it offers beside vSphere
	place   place
	boot    BootFiles
	links   *links
	log     *slog.Logger
	cancel  context.CancelFunc
	watched chan struct{} // closed when the watch has ended
	kernel  atomic.Pointer[string]

	wantNetwork string   // Config.Network
	extensions  []string // those that the host named when the session began
}

// place is where new machines go: the host's defaults.
type place struct {
	datacenter *object.Datacenter
	folder     *object.Folder
	pool       *object.ResourcePool
	datastore  *object.Datastore
	// network is where cards are that name none, and networkName its name.
	network     object.NetworkReference
	networkName string
}

// idleConns is how many connections to the host stay open for the next call. A container start uses three at a time.
const idleConns = 16

// Connect logs in, learns the host's defaults and its inventory, and goes on watching it until ctx ends or Close. A
// session that the host has forgotten is renewed by the call that notices.
func Connect(ctx context.Context, cfg Config) (*Client, error) {
	c, err := newClient(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to vSphere host %s: %w", cfg.URL, err)
	}
	if err := c.start(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot use vSphere host %s: %w", cfg.URL, err)
	}
	return c, nil
}

func newClient(ctx context.Context, cfg Config) (*Client, error) {
	u, err := soap.ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, fmt.Errorf("no URL is configured")
	}
	sc := soap.NewClient(u, cfg.Insecure)
	sc.DefaultTransport().MaxIdleConnsPerHost = idleConns
	if cfg.CAFile != "" {
		if err := sc.SetRootCAs(cfg.CAFile); err != nil {
			return nil, fmt.Errorf("cannot read certificate authorities: %w", err)
		}
	}
	vim, err := vim25.NewClient(ctx, sc)
	if err != nil {
		return nil, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ses := &session{next: sc, vim: vim, user: url.UserPassword(cfg.Username, cfg.Password)}
	vim.RoundTripper = ses
	c := &Client{
		inventory: newInventory(), soap: sc, vim: vim, session: ses, log: log,
		cancel: func() {}, watched: make(chan struct{}), wantNetwork: cfg.Network,
	}
	c.host = hostclient.New(u, c.do)
	c.links = newLinks(c.host.DialVsock)
	return c, ses.login(ctx)
}

func (c *Client) start(ctx context.Context) error {
	if err := c.learn(ctx); err != nil {
		close(c.watched) // no watch begins
		return err
	}
	watch, cancel := context.WithCancel(ctx)
	c.cancel = cancel
	first := make(chan error, 1)
	go func() {
		defer close(c.watched)
		c.watch(watch, first)
	}()
	return <-first
}

// learn asks the host for what does not change while the session lasts.
func (c *Client) learn(ctx context.Context) (err error) {
	if c.place, err = findPlace(ctx, c.vim, c.wantNetwork); err != nil {
		return err
	}
	if c.boot, err = c.readBoot(ctx); err != nil {
		return fmt.Errorf("cannot find what containers boot: %w", err)
	}
	return c.readExtensions(ctx)
}

// Close ends the watch and the cached links and logs out. Running machines are not touched.
func (c *Client) Close() error {
	c.cancel()
	<-c.watched
	c.links.close()
	err := c.session.logout()
	c.soap.CloseIdleConnections()
	return err
}

func findPlace(ctx context.Context, vim *vim25.Client, network string) (p place, err error) {
	f := find.NewFinder(vim)
	if p.datacenter, err = f.DefaultDatacenter(ctx); err != nil {
		return p, fmt.Errorf("cannot find its datacenter: %w", err)
	}
	f.SetDatacenter(p.datacenter)
	folders, err := p.datacenter.Folders(ctx)
	if err != nil {
		return p, fmt.Errorf("cannot find its VM folder: %w", err)
	}
	p.folder = folders.VmFolder
	if p.pool, err = f.DefaultResourcePool(ctx); err != nil {
		return p, fmt.Errorf("cannot find its resource pool: %w", err)
	}
	if p.datastore, err = f.DefaultDatastore(ctx); err != nil {
		return p, fmt.Errorf("cannot find its datastore: %w", err)
	}
	if p.network, err = findNetwork(ctx, f, network); err != nil {
		return p, fmt.Errorf("cannot find its network: %w", err)
	}
	p.networkName = networkName(p.network)
	return p, nil
}

// do sends a request with the session's cookie, and once more after a new login when the host answers 401. The body
// must be nil or rewindable through GetBody for that.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	ctx, before := req.Context(), c.session.generation()
	res, err := c.soap.Client.Do(req)
	if err != nil || res.StatusCode != http.StatusUnauthorized || req.Body != nil && req.GetBody == nil {
		return res, err
	}
	res.Body.Close()
	if err := c.session.renew(ctx, before); err != nil {
		return nil, err
	}
	again := req.Clone(ctx)
	again.Header.Del("Cookie")
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return c.soap.Client.Do(again)
}
