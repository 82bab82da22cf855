package vsphere

import (
	"errors"
	"testing"

	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/types"
)

func TestTaskOfTheWatch(t *testing.T) {
	ref := Ref{Type: "Task", Value: "task-1"}
	c := &Client{inventory: newInventory()}
	update := func(kind types.ObjectUpdateKind, changes ...types.PropertyChange) {
		c.apply(types.ObjectUpdate{Obj: ref, Kind: kind, ChangeSet: changes})
	}
	state := func(s types.TaskInfoState) types.PropertyChange {
		return types.PropertyChange{Name: propTaskState, Val: s}
	}

	update(types.ObjectUpdateKindEnter, state(types.TaskInfoStateRunning))
	if info := c.tasks[ref]; info.ended() || len(c.vms) != 0 {
		t.Fatalf("a task that runs has ended, or is a VM: %+v, %v", info, c.vms)
	}
	got := make(chan *taskInfo)
	go func() { got <- c.awaitTask(t.Context(), ref) }()
	update(types.ObjectUpdateKindModify, types.PropertyChange{Name: propTaskResult, Val: "vm"}, state(types.TaskInfoStateSuccess))
	if info := <-got; info == nil || info.result != "vm" || info.err() != nil {
		t.Errorf("awaitTask = %+v, want the result and no error", info)
	}

	fault := types.LocalizedMethodFault{LocalizedMessage: "no", Fault: &types.DuplicateName{}}
	update(types.ObjectUpdateKindModify, state(types.TaskInfoStateError), types.PropertyChange{Name: propTaskError, Val: fault})
	var failed task.Error
	if err := c.awaitTask(t.Context(), ref).err(); !errors.As(err, &failed) || classOf(err) == nil {
		t.Errorf("error %v, want the task's with its class", err)
	}
	update(types.ObjectUpdateKindLeave)
	if _, ok := c.tasks[ref]; ok {
		t.Error("a task that the host has forgotten is kept")
	}
}
