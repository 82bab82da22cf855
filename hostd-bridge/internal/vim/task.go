package vim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

const (
	// taskLife is how long an ended task can be asked for: vCenter's 10 minutes.
	taskLife = 10 * time.Minute
	// maxTasks bounds the ended tasks that are kept.
	maxTasks = 1000
	// recentTasks is how many tasks TaskManager.recentTask names, and all that run.
	recentTasks = 20
)

// tasks keeps the tasks that run and those that ended lately.
type tasks struct {
	ctx     context.Context
	signal  *vm.Signal
	log     *slog.Logger
	running sync.WaitGroup

	mu    sync.Mutex
	count int
	byID  map[string]*task
	order []*task // oldest first
}

// task is a task; its object is replaced, never changed.
type task struct {
	object *mo.Task
	cancel context.CancelFunc
}

func newTasks(ctx context.Context, signal *vm.Signal, log *slog.Logger) *tasks {
	return &tasks{ctx: ctx, signal: signal, log: log, byID: map[string]*task{}}
}

// work is what a task does; its result may be nil.
type work func(ctx context.Context) (types.AnyType, error)

// start begins a task and returns its reference. The work goes on when the client is gone.
func (t *tasks) start(c *call, entity types.ManagedObjectReference, name string, do work) types.ManagedObjectReference {
	ctx, cancel := context.WithCancel(t.ctx)
	now := time.Now().UTC()
	t.mu.Lock()
	t.forget(now)
	t.count++
	ref := types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-%d", t.count)}
	info := types.TaskInfo{
		Key: ref.Value, Task: ref, Name: c.name, DescriptionId: entity.Type + "." + descriptionID(c.name),
		Entity: &entity, EntityName: name, State: types.TaskInfoStateRunning, Cancelable: true,
		Reason: &types.TaskReasonUser{UserName: c.session.info.UserName}, QueueTime: now, StartTime: &now,
		EventChainId: int32(t.count),
	}
	job := &task{object: &mo.Task{ExtensibleManagedObject: mo.ExtensibleManagedObject{Self: ref}, Info: info}, cancel: cancel}
	t.byID[ref.Value] = job
	t.order = append(t.order, job)
	t.mu.Unlock()
	t.running.Go(func() {
		defer cancel()
		result, err := do(ctx)
		t.end(job, result, err)
	})
	return ref
}

// descriptionID turns a method's name into the second part of a task's description ("PowerOnVM_Task": "powerOnVM").
func descriptionID(method string) string {
	name := strings.TrimSuffix(method, "_Task")
	return strings.ToLower(name[:1]) + name[1:]
}

// end publishes how a task ended.
func (t *tasks) end(job *task, result types.AnyType, err error) {
	t.mu.Lock()
	info := job.object.Info
	now := time.Now().UTC()
	info.CompleteTime, info.Cancelable, info.Progress = &now, false, 100
	info.State, info.Result = types.TaskInfoStateSuccess, result
	if err != nil {
		info.State, info.Result, info.Error, info.Progress = types.TaskInfoStateError, nil, localized(err), 0
		t.log.Info("task failed", "task", info.DescriptionId, "entity", info.EntityName, "err", err)
	}
	job.object = &mo.Task{ExtensibleManagedObject: job.object.ExtensibleManagedObject, Info: info}
	t.mu.Unlock()
	t.signal.Wake()
}

// forget drops tasks that ended long ago, or too many ended tasks; the caller holds mu.
func (t *tasks) forget(now time.Time) {
	excess := len(t.order) - maxTasks
	t.order = slices.DeleteFunc(t.order, func(job *task) bool {
		done := job.object.Info.CompleteTime
		if done == nil || (excess <= 0 && now.Sub(*done) < taskLife) {
			return false
		}
		excess--
		delete(t.byID, job.object.Self.Value)
		return true
	})
}

// get returns a task as a managed object.
func (t *tasks) get(ref types.ManagedObjectReference) (*mo.Task, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	job, ok := t.byID[ref.Value]
	if !ok {
		return nil, false
	}
	return job.object, true
}

// recent returns the tasks that run and the latest of those that have ended, the newest first.
func (t *tasks) recent() []types.ManagedObjectReference {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []types.ManagedObjectReference{}
	for _, job := range slices.Backward(t.order) {
		if job.object.Info.CompleteTime != nil && len(out) >= recentTasks {
			continue
		}
		out = append(out, job.object.Self)
	}
	return out
}

// cancelTask cancels a task where it can still be: the operation ends as soon as it can be undone.
func cancelTask(c *call, req *types.CancelTask) (*types.CancelTaskResponse, error) {
	t := c.server.tasks
	t.mu.Lock()
	defer t.mu.Unlock()
	job, ok := t.byID[req.This.Value]
	if !ok {
		return nil, notFound(req.This)
	}
	if job.object.Info.CompleteTime != nil {
		return nil, fault(&types.InvalidState{}, "The task has ended already.")
	}
	job.cancel()
	return &types.CancelTaskResponse{}, nil
}
