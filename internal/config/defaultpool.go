package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// DefaultPool is a pool of one family that the controller makes if it is absent, as the variables
// SPIDERPOOL_INIT_DEFAULT_IPV4_... or ..._IPV6_... say. Nothing of it is checked when the environment is read: a controller
// that does not start for it would leave every edit without admission.
type DefaultPool struct {
	// Version is the family, 4 or 6.
	Version int64
	// Name (..._IPPOOL_NAME) is that of the SpiderIPPool, Subnet (..._IPPOOL_SUBNET) its network, Gateway
	// (..._IPPOOL_GATEWAY) may be empty.
	Name, Subnet, Gateway string
	// IPRanges (..._IPPOOL_IPRANGES) are its ranges, as Ranges reads them.
	IPRanges string
	// SubnetName (..._SUBNET_NAME) is that of a SpiderSubnet with the same addresses; empty: none.
	SubnetName string
}

// Parts of the names of the variables.
const (
	PoolName    = "IPPOOL_NAME"
	PoolSubnet  = "IPPOOL_SUBNET"
	PoolRanges  = "IPPOOL_IPRANGES"
	PoolGateway = "IPPOOL_GATEWAY"
	SubnetName  = "SUBNET_NAME"
)

// Variable is the name of the variable of a part, for messages.
func (p DefaultPool) Variable(part string) string {
	return fmt.Sprintf("SPIDERPOOL_INIT_DEFAULT_IPV%d_%s", p.Version, part)
}

func (p *DefaultPool) variables() []variable {
	return []variable{
		{p.Variable(PoolName), "", into(&p.Name, text)},
		{p.Variable(PoolSubnet), "", into(&p.Subnet, text)},
		{p.Variable(PoolRanges), "", into(&p.IPRanges, text)},
		{p.Variable(PoolGateway), "", into(&p.Gateway, text)},
		{p.Variable(SubnetName), "", into(&p.SubnetName, text)},
	}
}

// Wanted reports whether a pool is to be made: if anything but a name is set, which charts set anyway.
func (p DefaultPool) Wanted() bool {
	ranges, err := p.Ranges()
	return p.Subnet != "" || p.Gateway != "" || len(ranges) > 0 || err != nil
}

// Ranges reads IPRanges: a list in JSON, or joined by commas. What an entry means is not checked.
func (p DefaultPool) Ranges() (out []string, err error) {
	if text := strings.TrimSpace(p.IPRanges); text == "null" || !strings.HasPrefix(text, "[") {
		return commas(strings.TrimPrefix(text, "null")), nil
	}
	if err := json.Unmarshal([]byte(p.IPRanges), &out); err != nil {
		return nil, fmt.Errorf("%s is no list in JSON, as [\"10.6.0.10-10.6.0.20\"]: %w", p.Variable(PoolRanges), err)
	}
	return out, nil
}
