package relay

import "testing"

// FuzzNetworkSettings: what is taken for settings of a network can be some.
func FuzzNetworkSettings(f *testing.F) {
	f.Add([]byte(`{"gateways":["172.17.0.1/16","fd00::1/64"],"internal":true,"mtu":1400}`))
	f.Add([]byte(`{"gateways":["x"]}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decodeSettings(data); err == nil && s.Check() != nil {
			t.Errorf("%q is taken for %+v", data, s)
		}
	})
}
