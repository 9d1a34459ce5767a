package main

import "strings"

// device names the browser, and the system that it runs on, for somebody who is to
// recognise it in a list.
func device(userAgent string) string {
	browser := first(userAgent, "Edg/", "Edge", "OPR/", "Opera", "Firefox/", "Firefox", "Chrome/", "Chrome", "Safari/", "Safari", "curl/", "curl")
	system := first(userAgent, "Android", "Android", "iPhone", "iPhone", "iPad", "iPad", "Windows", "Windows", "Mac OS X", "macOS", "CrOS", "ChromeOS", "Linux", "Linux")
	switch {
	case browser == "":
		return "Another browser"
	case system == "":
		return browser
	}
	return browser + " on " + system
}

// first returns what follows in pairs the first token that is in text.
func first(text string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		if strings.Contains(text, pairs[i]) {
			return pairs[i+1]
		}
	}
	return ""
}
