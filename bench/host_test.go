package main

import "testing"

func TestEndpointOf(t *testing.T) {
	t.Setenv("GOVC_PASSWORD", "secret")
	e, err := endpointOf(options{vsphere: "https://me@vc.example/sdk", vsphereCA: "ca.pem"})
	if err != nil || e.URL != "https://vc.example/sdk" || e.Username != "me" || e.Password != "secret" || e.CAFile != "ca.pem" {
		t.Errorf("endpointOf = %+v, %v", e, err)
	}
	if e, err = endpointOf(options{vsphere: "https://me:other@vc.example/sdk"}); err != nil || e.Password != "other" {
		t.Errorf("endpointOf = %+v, %v", e, err)
	}
	for _, bad := range []string{"vc.example", "http://me@vc.example", "https://vc.example/sdk"} {
		if e, err := endpointOf(options{vsphere: bad}); err == nil {
			t.Errorf("endpointOf(%q) = %+v", bad, e)
		}
	}
}
