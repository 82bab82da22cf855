package vsphere

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// logoutTimeout bounds the logout from a host that may be gone.
const logoutTimeout = 2 * time.Second

// session is a soap.RoundTripper that logs in again when the host has forgotten the session, and repeats the call.
type session struct {
	next soap.RoundTripper
	vim  *vim25.Client
	user *url.Userinfo

	mu  sync.Mutex // held while logging in
	gen int        // counts logins
}

// RoundTrip sends one call.
func (s *session) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	before := s.generation()
	err := s.next.RoundTrip(ctx, req, res)
	if err == nil || !isNotAuthenticated(err) {
		return err
	}
	if err := s.renew(ctx, before); err != nil {
		return err
	}
	reflect.ValueOf(res).Elem().SetZero() // a decoder leaves the fault of the first answer where it is
	return s.next.RoundTrip(ctx, req, res)
}

func isNotAuthenticated(err error) bool { return fault.Is(err, &types.NotAuthenticated{}) }

func (s *session) generation() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// renew logs in unless another caller has done so since generation before.
func (s *session) renew(ctx context.Context, before int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != before {
		return nil
	}
	return s.loginLocked(ctx)
}

func (s *session) login(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loginLocked(ctx)
}

func (s *session) loginLocked(ctx context.Context) error {
	manager := s.vim.ServiceContent.SessionManager
	if manager == nil {
		return errors.New("cannot log in: the host has no session manager")
	}
	password, _ := s.user.Password()
	req := types.Login{This: *manager, UserName: s.user.Username(), Password: password}
	if _, err := methods.Login(ctx, s.next, &req); err != nil {
		return fmt.Errorf("cannot log in as %q: %w", req.UserName, err)
	}
	s.gen++
	return nil
}

func (s *session) logout() error {
	ctx, cancel := context.WithTimeout(context.Background(), logoutTimeout)
	defer cancel()
	_, err := methods.Logout(ctx, s.next, &types.Logout{This: *s.vim.ServiceContent.SessionManager})
	if err != nil && !isNotAuthenticated(err) {
		return fmt.Errorf("cannot log out: %w", err)
	}
	return nil
}
