// Errors of the whole project: one code, one table, one result type.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace userpod {

// Every kind of failure that a caller may want to tell apart. Columns of the table: code, gRPC status number
// (grpc::StatusCode), D-Bus error name, exit status of a command line tool (sysexits.h where one fits).
// kubelet tells apart only NOT_FOUND, UNIMPLEMENTED, DEADLINE_EXCEEDED, UNAVAILABLE and the text prefixes of
// cri-api's errors package, which it reads only from UNKNOWN: hence UNKNOWN for what has such a prefix.
#define USERPOD_ERROR_TABLE(X)                                                              \
  X(Internal, 13, "org.userpod1.Error.Internal", 70)                                        \
  X(System, 2, "org.userpod1.Error.System", 71)                                             \
  X(InvalidArgument, 3, "org.freedesktop.DBus.Error.InvalidArgs", 64)                       \
  X(NotSupported, 12, "org.freedesktop.DBus.Error.NotSupported", 69)                        \
  X(AccessDenied, 7, "org.freedesktop.DBus.Error.AccessDenied", 77)                         \
  X(LimitsExceeded, 8, "org.freedesktop.DBus.Error.LimitsExceeded", 75)                     \
  X(Timeout, 4, "org.freedesktop.DBus.Error.Timeout", 75)                                   \
  X(Canceled, 1, "org.userpod1.Error.Canceled", 75)                                         \
  X(NoSuchPod, 5, "org.userpod1.Error.NoSuchPod", 66)                                       \
  X(NoSuchContainer, 5, "org.userpod1.Error.NoSuchContainer", 66)                           \
  X(NoSuchImage, 5, "org.userpod1.Error.NoSuchImage", 66)                                   \
  X(NoSuchJob, 5, "org.userpod1.Error.NoSuchJob", 66)                                       \
  X(NameInUse, 6, "org.userpod1.Error.NameInUse", 73)                                       \
  X(InvalidState, 9, "org.userpod1.Error.InvalidState", 70)                                 \
  X(Busy, 9, "org.userpod1.Error.Busy", 75)                                                 \
  X(Managed, 9, "org.userpod1.Error.Managed", 77)                                           \
  X(NotReady, 14, "org.userpod1.Error.NotReady", 75)                                        \
  X(NoSpace, 8, "org.userpod1.Error.NoSpace", 74)                                           \
  X(RuntimeFailed, 2, "org.userpod1.Error.RuntimeFailed", 70)                               \
  X(MonitorFailed, 2, "org.userpod1.Error.MonitorFailed", 70)                               \
  X(NetworkSetupFailed, 2, "org.userpod1.Error.NetworkSetupFailed", 70)                     \
  X(StorageFailed, 2, "org.userpod1.Error.StorageFailed", 74)                               \
  X(UserNamespaceUnavailable, 9, "org.userpod1.Error.UserNamespaceUnavailable", 69)         \
  X(SubIdMissing, 9, "org.userpod1.Error.SubIdMissing", 69)                                 \
  X(CgroupDelegationMissing, 9, "org.userpod1.Error.CgroupDelegationMissing", 69)           \
  X(HelperMissing, 9, "org.userpod1.Error.HelperMissing", 69)                               \
  X(RegistryUnreachable, 2, "org.userpod1.Error.RegistryUnreachable", 69)                   \
  X(RegistryAuthRequired, 2, "org.userpod1.Error.RegistryAuthRequired", 77)                 \
  X(RegistryDenied, 2, "org.userpod1.Error.RegistryDenied", 77)                             \
  X(ManifestUnknown, 2, "org.userpod1.Error.ManifestUnknown", 66)                           \
  X(PlatformUnavailable, 2, "org.userpod1.Error.PlatformUnavailable", 66)                   \
  X(DigestMismatch, 2, "org.userpod1.Error.DigestMismatch", 65)                             \
  X(ImageInvalid, 2, "org.userpod1.Error.ImageInvalid", 65)                                 \
  X(SignatureRejected, 2, "org.userpod1.Error.SignatureRejected", 77)                       \
  X(PolicyInvalid, 2, "org.userpod1.Error.PolicyInvalid", 78)                               \
  X(ImageVolumeFailed, 2, "org.userpod1.Error.ImageVolumeFailed", 70)                       \
  X(RecursiveReadOnlyUnsupported, 2, "org.userpod1.Error.RecursiveReadOnlyUnsupported", 69) \
  X(ConfigInvalid, 9, "org.userpod1.Error.ConfigInvalid", 78)                               \
  X(SandboxedCaller, 7, "org.userpod1.Error.SandboxedCaller", 77)

enum class Code : std::uint8_t {
#define X(name, grpc, dbus, status) name,
  USERPOD_ERROR_TABLE(X)
#undef X
};

// The stable name of a code ("NoSuchPod"): journal field USERPOD_ERROR=, JSON output.
std::string_view codeName(Code code);
int grpcStatus(Code code);
std::string_view dbusErrorName(Code code);
int exitStatus(Code code);

// A failure: what kind, which errno if the kernel said one, and a text that names the thing and the mend.
class [[nodiscard]] Error {
 public:
  Error(Code code, std::string text, int sysErrno = 0) : code_(code), errno_(sysErrno), text_(std::move(text)) {}

  Code code() const { return code_; }
  int sysErrno() const { return errno_; }
  const std::string& text() const { return text_; }

  // The same failure seen from one level up: "context: text". The code stays unless given.
  Error wrap(std::string_view context) && {
    text_ = std::string(context) + ": " + text_;
    return std::move(*this);
  }
  Error as(Code code) && {
    code_ = code;
    return std::move(*this);
  }

 private:
  Code code_;
  int errno_;
  std::string text_;
};

// The one place where errno becomes an Error: "what: strerror". ENOSPC and EDQUOT become NoSpace, the rest System.
Error sysError(std::string_view what, int sysErrno);
Error sysError(std::string_view what);  // from errno, which is read first

// A value or an Error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  template <typename U>
    requires(std::is_convertible_v<U &&, T> && !std::is_same_v<std::remove_cvref_t<U>, T> &&
             !std::is_same_v<std::remove_cvref_t<U>, Error> && !std::is_same_v<std::remove_cvref_t<U>, Result>)
  Result(U&& value) : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}
  explicit operator bool() const { return !error_; }
  const Error& error() const& { return *error_; }
  Error&& error() && { return *std::move(error_); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

// USERPOD_TRY(x, call()): declares x as the value of the call, or returns its error.
#define USERPOD_TRY(name, ...)                                 \
  auto name##_result = (__VA_ARGS__);                          \
  if (!name##_result) return std::move(name##_result).error(); \
  auto& name = *name##_result
// USERPOD_CHECK(call()): returns the error of the call, if any.
#define USERPOD_CHECK(...)                                                                        \
  do {                                                                                            \
    if (auto check_result = (__VA_ARGS__); !check_result) return std::move(check_result).error(); \
  } while (false)

}  // namespace userpod
