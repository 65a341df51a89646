package apiclient

import (
	"regexp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// missingRole is how RBAC says that a binding refers to a role that it does not
// know (k8s.io/apiserver, "RBAC: clusterrole.rbac.authorization.k8s.io \"x\" not found").
var missingRole = regexp.MustCompile(`(cluster)?role\.rbac\.authorization\.k8s\.io "[^"]*" not found`)

// LoadingRoles reports whether err is a refusal that is likely to pass: an API
// server that has just started reads its bindings and its roles one after the
// other, and for some seconds knows the binding and not the role. A role that
// was deleted looks the same, so who waits for it must not wait for ever.
func LoadingRoles(err error) bool {
	return apierrors.IsForbidden(err) && missingRole.MatchString(err.Error())
}
