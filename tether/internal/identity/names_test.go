package identity

import (
	"strings"
	"testing"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func TestHosts(t *testing.T) {
	got := Hosts(&tetherv1.Spec{
		Hostname: "box", Domainname: "example.org",
		Interfaces: []*tetherv1.Interface{{Addresses: []string{"10.0.2.15/24"}}},
		Hosts:      []*tetherv1.HostEntry{{Address: "10.0.0.9", Names: []string{"db", "store"}}, {Address: "1.2.3.4\n6.6.6.6", Names: []string{"evil"}}},
	})
	if !strings.HasSuffix(got, "10.0.2.15\tbox.example.org box\n10.0.0.9\tdb store\n1.2.3.4 6.6.6.6\tevil\n") {
		t.Errorf("hosts file:\n%s", got)
	}
	if !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") {
		t.Errorf("hosts file:\n%s", got)
	}
}

func TestResolvConf(t *testing.T) {
	got := ResolvConf(&tetherv1.Resolver{Nameservers: []string{"10.0.2.3", "::1"}, Search: []string{"a.org", "b.org"}, Options: []string{"ndots:0"}})
	if want := "nameserver 10.0.2.3\nnameserver ::1\nsearch a.org b.org\noptions ndots:0\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := ResolvConf(nil); got != "" {
		t.Errorf("no resolver gives %q", got)
	}
}
