// registries.conf (version 2) with drop-ins and short-name aliases: where an image's name leads. See
// containers-registries.conf(5) and containers-registries.conf.d(5).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/images/reference.hpp"
#include "daemon/images/registries/places.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// One place that is asked for an image.
struct Endpoint {
  std::string host;       // host[:port]; "docker.io" stays so, the client knows where it is served
  std::string path;       // repository there
  bool insecure = false;  // certificates are not verified, and plain HTTP is accepted
  bool loopback = false;  // an address of this machine: plain HTTP is accepted where TLS is not spoken
  // Another host than the name's, or a mirror: the caller's credentials are not for it.
  bool mirror = false;
};

// One name that a reference may mean, complete, and where it is asked for, in order: mirrors that apply to it (by
// pull-from-mirror), then the registry itself after its rewriting.
struct Candidate {
  Reference name;
  std::vector<Endpoint> endpoints;  // at least one
};

// Immutable once loaded; any thread.
class Registries {
 public:
  virtual ~Registries() = default;

  // What a pull tries, in order: one candidate for a name with a host or for an alias, one for each search registry
  // otherwise. Errors name the file that decides: RegistryDenied (blocked), InvalidArgument (a short name that no
  // alias and no search registry completes; in mode "enforcing" also one that several registries could complete).
  virtual Result<std::vector<Candidate>> candidates(const Reference& reference) const = 0;
  // The complete names under which a reference may be stored, in the order of candidates(); never an error: short names
  // that may not be pulled can still be found. Blocked registries count; localhost/NAME comes before search registries.
  virtual std::vector<Reference> names(const Reference& reference) const = 0;
  // Of what was read, for logs and doctor: unknown keys and the like, "FILE:LINE: key: what; mend".
  virtual const std::vector<std::string>& warnings() const = 0;
  // Names of credential helpers in the order in which they are asked, "containers-auth.json" for the auth files.
  virtual const std::vector<std::string>& credentialHelpers() const = 0;
};

// Keeps the configuration in step with the files: current() looks at most four times a second whether one was changed,
// added or removed (by stat), and reads them again then. A change that cannot be read (ConfigInvalid: file, line, key
// and mend) is logged once and the last good configuration stays; when there never was a good one, it is the error. Any
// thread.
class RegistriesFiles {
 public:
  explicit RegistriesFiles(Places places);
  ~RegistriesFiles();
  Result<std::shared_ptr<const Registries>> current();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads once.
Result<std::shared_ptr<const Registries>> loadRegistries(const Places& places);

}  // namespace userpod::images
