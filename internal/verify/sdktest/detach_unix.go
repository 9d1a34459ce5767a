//go:build unix

package sdktest

import (
	"os/exec"
	"syscall"
)

// detach keeps an interrupt typed at the terminal from ending the reaper.
func detach(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
