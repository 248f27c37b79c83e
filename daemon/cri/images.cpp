#include "daemon/cri/images.hpp"

#include <openssl/evp.h>

#include <charconv>
#include <optional>

#include "daemon/cri/fields.hpp"
#include "daemon/cri/info.hpp"

namespace userpod::cri {
namespace {

constexpr std::size_t kReferenceLimit = 4096;
constexpr std::size_t kSecretLimit = 64 * 1024;

std::optional<std::string> decodeBase64(const std::string& text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3, '\0');
  int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                               reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (length < 0) return std::nullopt;
  // OpenSSL counts the padding as zero bytes.
  std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(static_cast<std::size_t>(length) - padding);
  return bytes;
}

Result<images::Credentials> fromBasic(const std::string& text) {
  auto bytes = text.size() <= kSecretLimit ? decodeBase64(text) : std::nullopt;
  std::size_t colon = bytes ? bytes->find(':') : std::string::npos;
  if (colon == std::string::npos) return invalidField("auth.auth", "is not the base64 text of user:password");
  images::Credentials credentials{bytes->substr(0, colon), bytes->substr(colon + 1)};
  // Some credential helpers pad the password with NUL bytes.
  credentials.password.erase(credentials.password.find_last_not_of('\0') + 1);
  return credentials;
}

}  // namespace

Result<std::string> toReference(std::string_view field, const v1::ImageSpec& spec) {
  std::string path = std::string(field) + ".image";
  if (spec.image().empty()) return invalidField(path, "is empty; give a name, a digest or an image id");
  USERPOD_CHECK(checkText(path, spec.image(), kReferenceLimit));
  return spec.image();
}

Result<images::Credentials> toCredentials(const v1::AuthConfig& auth) {
  if (auth.username().size() > kSecretLimit || auth.password().size() > kSecretLimit)
    return invalidField("auth", "has a username or password of more than 64 KiB");
  if (!auth.username().empty()) return images::Credentials{auth.username(), auth.password()};
  if (!auth.auth().empty()) return fromBasic(auth.auth());
  if (!auth.identity_token().empty() || !auth.registry_token().empty())
    return unsupportedField("auth", "has only a token, which this runtime cannot use; give username and password");
  return images::Credentials{};
}

void fillItem(const ImageRecord& image, const std::string& asked, v1::Image* item) {
  item->set_id(image.id);
  item->mutable_repo_tags()->Assign(image.repoTags.begin(), image.repoTags.end());
  item->mutable_repo_digests()->Assign(image.repoDigests.begin(), image.repoDigests.end());
  item->set_size(static_cast<std::uint64_t>(image.size));
  item->set_pinned(image.pinned);
  auto* spec = item->mutable_spec();
  spec->set_image(!asked.empty() ? asked : !image.repoTags.empty() ? image.repoTags.front() : image.id);
  spec->set_image_ref(image.id);
  spec->mutable_annotations()->insert(image.manifestAnnotations.begin(), image.manifestAnnotations.end());
  // "1000", "1000:1000", "nginx", "nginx:nginx". A name leaves uid absent: kubelet would take a 0 for root.
  std::string user = image.user.substr(0, image.user.find(':'));
  std::uint32_t uid = 0;
  auto [end, error] = std::from_chars(user.data(), user.data() + user.size(), uid);
  if (!user.empty() && error == std::errc() && end == user.data() + user.size())
    item->mutable_uid()->set_value(uid);
  else
    item->set_username(user);
}

std::string imageInfo(const ImageRecord& image, const std::string& config) {
  nlohmann::json info{{"labels", image.labels},
                      {"manifestDigest", image.manifestDigest},
                      {"layers", image.diffIds},
                      {"imageSpec", parseForInfo(config)}};
  return printInfo(info);
}

}  // namespace userpod::cri
