//go:build !unix

package sdktest

import "os/exec"

func detach(*exec.Cmd) {}
