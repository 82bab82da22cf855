package vsphere

import (
	"context"
	"net/url"
	"testing"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// forgetful is a host that has forgotten the session, and knows the next one. Its answers are put into what a call gives for them without
// that being cleared, as a decoder of XML does.
type forgetful struct{ loggedIn bool }

func (f *forgetful) RoundTrip(_ context.Context, req, res soap.HasFault) error {
	switch body := res.(type) {
	case *methods.LoginBody:
		f.loggedIn, body.Res = true, &types.LoginResponse{}
	case *methods.PowerOnVM_TaskBody:
		if f.loggedIn {
			body.Res = &types.PowerOnVM_TaskResponse{}
		} else {
			body.Fault_ = &soap.Fault{}
			body.Fault_.Detail.Fault = types.NotAuthenticated{}
		}
	}
	if fault := res.Fault(); fault != nil {
		return soap.WrapSoapFault(fault)
	}
	return nil
}

// TestForgottenSessionOfACall: the call that notices that the host has forgotten the session logs in, and has its answer.
func TestForgottenSessionOfACall(t *testing.T) {
	host := &forgetful{}
	vim := &vim25.Client{ServiceContent: types.ServiceContent{SessionManager: &Ref{Type: "SessionManager", Value: "s"}}}
	s := &session{next: host, vim: vim, user: url.UserPassword("u", "p")}
	res, err := methods.PowerOnVM_Task(t.Context(), s, &types.PowerOnVM_Task{This: Ref{Type: "VirtualMachine", Value: "vm-1"}})
	if err != nil || res == nil {
		t.Errorf("%+v, %v", res, err)
	}
}
