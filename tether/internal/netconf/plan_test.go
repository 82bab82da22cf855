package netconf

import (
	"strings"
	"testing"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func TestMake(t *testing.T) {
	present := []Link{{Index: 2, Name: "eth0", MAC: "52:54:00:00:00:01"}, {Index: 3, Name: "eth1", MAC: "52:54:00:00:00:02"}}
	for _, test := range []struct {
		name   string
		wanted []*tetherv1.Interface
		plan   string
	}{
		{"nothing", nil, ""},
		{"first card, IPv4", []*tetherv1.Interface{{Addresses: []string{"10.0.2.15/24"}, Gateway: "10.0.2.2"}},
			"link 2: no IPv6 on eth0\nlink 2: address 10.0.2.15/24\nlink 2: up\nlink 2: default route by 10.0.2.2"},
		{"by MAC, renamed, both families", []*tetherv1.Interface{{
			Mac: "52:54:00:00:00:02", Name: "net0", Mtu: 1400, Addresses: []string{"10.1.0.2/16", "fd00::2/64", "fd00::3/64"},
		}}, "link 3: name net0\nlink 3: mtu 1400\nlink 3: no duplicate address detection on net0\n" +
			"link 3: address 10.1.0.2/16\nlink 3: address fd00::2/64\nlink 3: address fd00::3/64\nlink 3: up"},
	} {
		t.Run(test.name, func(t *testing.T) {
			steps, err := Make(test.wanted, present)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, s := range steps {
				lines = append(lines, s.String())
			}
			if got := strings.Join(lines, "\n"); got != test.plan {
				t.Errorf("plan\n%s\nwant\n%s", got, test.plan)
			}
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	present := []Link{{Index: 2, Name: "eth0", MAC: "52:54:00:00:00:01"}}
	for text, wanted := range map[string][]*tetherv1.Interface{
		"cannot find network card with MAC": {{Mac: "52:54:00:00:00:09"}},
		"the machine has 1":                 {{}, {}},
		"malformed address":                 {{Addresses: []string{"10.0.2.15"}}},
		"malformed gateway":                 {{Gateway: "router"}},
		"malformed name":                    {{Name: "../eth0"}},
		"MTU":                               {{Mtu: 70000}},
	} {
		if _, err := Make(wanted, present); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v, want %q", wanted, err, text)
		}
	}
}
