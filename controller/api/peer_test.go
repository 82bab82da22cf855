package api

import (
	"net"
	"net/http"
	"slices"
	"testing"
)

// TestClientsOfOneUser: a user has so many connections, of which those that end make room, and takes none of another's.
func TestClientsOfOneUser(t *testing.T) {
	c := clients{users: map[net.Conn]uint32{}, most: 2}
	var conns []net.Conn
	come := func(user uint32) bool {
		one, other := net.Pipe()
		t.Cleanup(func() { one.Close(); other.Close() })
		conns = append(conns, one)
		return c.came(one, user)
	}
	comes := func(users ...uint32) (in []bool) {
		for _, user := range users {
			in = append(in, come(user))
		}
		return in
	}
	if got := comes(1000, 1000, 1000, 1001); !slices.Equal(got, []bool{true, true, false, true}) {
		t.Errorf("connections are %v", c.users)
	}
	c.changed(conns[2], http.StateClosed) // that there was no room for
	if come(1000) {
		t.Error("there is room for one more")
	}
	c.changed(conns[0], http.StateHijacked)
	c.changed(conns[1], http.StateClosed)
	if got := comes(1000, 1000, 1000); !slices.Equal(got, []bool{true, true, false}) {
		t.Errorf("connections are %v", c.users)
	}
	server := &http.Server{}
	Guard(server)
	if server.MaxHeaderBytes != maxHeader || server.IdleTimeout != idleTime || server.ConnState == nil || server.ConnContext == nil {
		t.Errorf("%+v", server)
	}
}
