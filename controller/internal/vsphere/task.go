package vsphere

import (
	"context"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/types"
)

// Properties of a task that the watch follows.
const (
	propTaskState  = "info.state"
	propTaskError  = "info.error"
	propTaskResult = "info.result"
)

// watchPatience is how long a task's end is awaited from the watch alone. A task that takes longer, or that the watch
// does not show, as while it is set up again, is asked for by itself, which takes four calls more.
const watchPatience = 5 * time.Second

// run starts a task and waits for its end. The error is a task.Error when the task failed.
func (c *Client) run(ctx context.Context, start func(context.Context) (*object.Task, error)) (result types.AnyType, err error) {
	t, err := start(ctx)
	if err != nil {
		return nil, err
	}
	if info := c.awaitTask(ctx, t.Reference()); info != nil {
		return info.result, info.err()
	}
	info, err := t.WaitForResult(ctx)
	if err != nil {
		return nil, err
	}
	return info.Result, nil
}

// awaitTask returns what the watch shows of a task that has ended, or nil when it does not show its end in time.
func (c *Client) awaitTask(ctx context.Context, ref Ref) *taskInfo {
	ctx, cancel := context.WithTimeout(ctx, watchPatience)
	defer cancel()
	var info taskInfo
	err := c.await(ctx, func() bool {
		info = c.tasks[ref]
		return info.ended()
	})
	if err != nil {
		return nil
	}
	return &info
}

// taskInfo is what the host has said last about a task.
type taskInfo struct {
	state  types.TaskInfoState
	fault  *types.LocalizedMethodFault
	result types.AnyType
}

func (t *taskInfo) ended() bool {
	return t.state == types.TaskInfoStateSuccess || t.state == types.TaskInfoStateError
}

func (t *taskInfo) err() error {
	if t.state == types.TaskInfoStateSuccess {
		return nil
	}
	fault := t.fault
	if fault == nil {
		fault = &types.LocalizedMethodFault{LocalizedMessage: "the task failed without a reason"}
	}
	return task.Error{LocalizedMethodFault: fault}
}

func (t *taskInfo) set(change types.PropertyChange) {
	switch change.Name {
	case propTaskState:
		t.state, _ = change.Val.(types.TaskInfoState)
	case propTaskError:
		if fault, ok := change.Val.(types.LocalizedMethodFault); ok {
			t.fault = &fault
		}
	case propTaskResult:
		t.result = change.Val
	}
}

// applyTask enters one update of a task into the inventory.
func (i *inventory) applyTask(u types.ObjectUpdate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if u.Kind == types.ObjectUpdateKindLeave {
		delete(i.tasks, u.Obj)
		return
	}
	info := i.tasks[u.Obj]
	for _, change := range u.ChangeSet {
		info.set(change)
	}
	i.tasks[u.Obj] = info
	i.wake()
}

// forgetTasks removes all tasks: a new watch tells of those that the host still knows.
func (i *inventory) forgetTasks() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.tasks)
}
