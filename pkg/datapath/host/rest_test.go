package host

import (
	"runtime"
	"testing"
	"time"
)

// TestThreadTime: by what a pass is measured, work counts and waiting does not, as on
// a machine without time most of a pass is.
func TestThreadTime(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := threadTime()
	time.Sleep(200 * time.Millisecond)
	if took := threadTime() - begin; took > 100*time.Millisecond {
		t.Errorf("waiting for 200ms took %s", took)
	}
	for end := time.Now().Add(time.Minute); threadTime()-begin < 20*time.Millisecond; {
		if time.Now().After(end) {
			t.Fatal("work does not count")
		}
	}
}
