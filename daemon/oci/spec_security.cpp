// Capabilities, no_new_privs, seccomp, masked and read-only paths.
#include <openssl/evp.h>

#include <algorithm>

#include "daemon/oci/spec.hpp"
#include "policy/capabilities.hpp"
#include "policy/container_paths.hpp"
#include "policy/seccomp.hpp"

namespace userpod::oci {
namespace {

Result<policy::Capabilities> addCapabilities(SpecParts& parts) {
  const auto& security = parts.input.container.config.security;
  policy::CapabilitySets sets;
  if (security.privileged) {
    sets.bounding = policy::allCapabilities();
  } else {
    const auto& request = security.capabilities;
    USERPOD_TRY(applied, policy::applyCapabilities(policy::defaultCapabilities(), request.add, request.drop,
                                                   request.addAmbient));
    sets = applied;
  }
  // Inheritable stays empty (CVE-2022-24769) but for what is ambient, which needs it. A user other than root loses what
  // is permitted at exec: the kernel does that.
  parts.spec["process"]["capabilities"] = {{"bounding", sets.bounding.names()},
                                           {"permitted", sets.bounding.names()},
                                           {"effective", sets.bounding.names()},
                                           {"inheritable", sets.ambient.names()},
                                           {"ambient", sets.ambient.names()}};
  return sets.bounding;
}

// crun takes the compiled program instead of the profile, which costs it a third of a container's start; others ignore
// this annotation. facts: crun(1), run.oci.seccomp_bpf_data.
Status setSeccomp(SpecParts& parts, Json profile) {
  USERPOD_TRY(program, policy::compileSeccomp(profile));
  std::string text(4 * ((program.size() + 2) / 3) + 1, '\0');
  int length =
      ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                        reinterpret_cast<const unsigned char*>(program.data()), static_cast<int>(program.size()));
  text.resize(static_cast<std::size_t>(length));
  parts.spec["annotations"]["run.oci.seccomp_bpf_data"] = std::move(text);
  parts.spec["linux"]["seccomp"] = std::move(profile);
  return {};
}

Status addSeccomp(SpecParts& parts, policy::Capabilities capabilities) {
  const auto& security = parts.input.container.config.security;
  if (security.privileged || !security.seccomp) return {};
  switch (security.seccomp->type) {
    case SecurityProfile::Type::Unconfined:
      return {};
    case SecurityProfile::Type::RuntimeDefault:
      return setSeccomp(parts, policy::defaultSeccomp(capabilities));
    case SecurityProfile::Type::Localhost:
      break;
  }
  USERPOD_TRY(profile, policy::loadSeccomp(security.seccomp->localhostRef, capabilities));
  return setSeccomp(parts, std::move(profile));
}

void addPaths(SpecParts& parts) {
  const auto& security = parts.input.container.config.security;
  if (security.privileged) return;
  // An empty list is a request for none (procMount: Unmasked); a list of the client replaces nothing that is dangerous
  // to leave out, so the defaults are added to it, as CRI-O does.
  auto masked = security.maskedPaths;
  if (!masked.empty())
    for (const char* path : policy::kMaskedPaths)
      if (std::find(masked.begin(), masked.end(), path) == masked.end()) masked.emplace_back(path);
  parts.spec["linux"]["maskedPaths"] = masked;
  parts.spec["linux"]["readonlyPaths"] = security.readonlyPaths;
}

}  // namespace

Status addSecurity(SpecParts& parts) {
  const auto& security = parts.input.container.config.security;
  USERPOD_TRY(capabilities, addCapabilities(parts));
  parts.spec["process"]["noNewPrivileges"] = security.noNewPrivs;
  USERPOD_CHECK(addSeccomp(parts, capabilities));
  addPaths(parts);
  return {};
}

}  // namespace userpod::oci
