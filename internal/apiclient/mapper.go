package apiclient

import (
	"fmt"
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// Mapper knows the resources of the kinds that the daemons use, so that none
// needs the API server to be there when it starts. Others are asked for when
// they are first used.
func Mapper(cfg *rest.Config, httpClient *http.Client) (meta.RESTMapper, error) {
	dynamic, err := apiutil.NewDynamicRESTMapper(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("prepare the mapping of kinds: %w", err)
	}
	return mapper{dynamic, known()}, nil
}

// mapper asks the API server only for kinds that are not known. It is not
// meta.FirstHitRESTMapper, whose error says that there is no such kind as soon
// as one of its mappers does: it would say so while the API server is away.
type mapper struct {
	meta.RESTMapper
	known meta.RESTMapper
}

// RESTMapping is the one question that the clients ask.
func (m mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	if mapping, err := m.known.RESTMapping(kind, versions...); err == nil {
		return mapping, nil
	}
	return m.RESTMapper.RESTMapping(kind, versions...)
}

func known() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, of := range []struct {
		version schema.GroupVersion
		scope   meta.RESTScope
		kinds   []string
	}{
		{v2beta1.GroupVersion, meta.RESTScopeRoot, []string{"SpiderIPPool", "SpiderReservedIP", "SpiderIP", "SpiderSubnet"}},
		{v2beta1.GroupVersion, meta.RESTScopeNamespace, []string{"SpiderEndpoint"}},
		{corev1.SchemeGroupVersion, meta.RESTScopeRoot, []string{"Node", "Namespace"}},
		{corev1.SchemeGroupVersion, meta.RESTScopeNamespace, []string{"Pod", "Event"}},
		{appsv1.SchemeGroupVersion, meta.RESTScopeNamespace, []string{"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"}},
		{batchv1.SchemeGroupVersion, meta.RESTScopeNamespace, []string{"Job", "CronJob"}},
	} {
		for _, kind := range of.kinds {
			m.Add(of.version.WithKind(kind), of.scope)
		}
	}
	return m
}
