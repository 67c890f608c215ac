#include "bindings/arguments.hpp"
#include "bindings/docstrings.hpp"
#include "bindings/mapping_handle.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/source/shared_image.hpp"

namespace uffd::bindings {
namespace {

// Its filler may be calling a Python function when the last reference goes.
void destroy(SharedImage* image) {
  if (Py_IsInitialized() && PyGILState_Check()) {
    without_gil([&] { delete image; });
  } else {
    delete image;
  }
}

const Choices<MemoryKind> kImageKinds{{"memfd", MemoryKind::memfd},
                                      {"hugetlb", MemoryKind::hugetlb}};

std::shared_ptr<SharedImage> shared_image(const py::object& source, const py::object& kind) {
  const auto origin = source_argument(source, "source");
  if (!origin) refuse_type("source", source, "a source");
  const MemoryKind memory = word_argument(kind, "kind", kImageKinds);
  return std::shared_ptr<SharedImage>(new SharedImage(origin, memory), destroy);
}

std::unique_ptr<MappingHandle> map_image(const SharedImage& image, const py::object& offset,
                                         const py::object& length, const py::object& shared) {
  const uint64_t from = unsigned_argument(offset, "offset");
  if (from % image.page_size() != 0 || from >= image.length()) {
    throw std::invalid_argument("offset is " + std::to_string(from) +
                                "; it must be a multiple of the page size " +
                                std::to_string(image.page_size()) + " within the image");
  }
  const uint64_t wanted =
      length.is_none() ? image.length() - from : unsigned_argument(length, "length");
  if (wanted == 0 || wanted % image.page_size() != 0 || wanted > image.length() - from) {
    throw std::invalid_argument("length is " + std::to_string(wanted) +
                                "; it must be whole pages within the image");
  }
  const bool for_all = flag_argument(shared, "shared");
  const bool huge = image.page_size() != sys::page_size();
  return std::make_unique<MappingHandle>(
      Mapping(image.fd(), from, wanted, huge ? MemoryKind::hugetlb : MemoryKind::memfd, for_all));
}

// True when it is complete, False when it is not yet, None when its source cannot supply the rest.
py::object wait_filled(const SharedImage& image, double seconds) {
  const std::chrono::milliseconds timeout(static_cast<int64_t>(seconds * 1e3));
  switch (without_gil([&] { return image.wait_filled(timeout); })) {
    case SharedImage::Filled::all:
      return py::bool_(true);
    case SharedImage::Filled::not_yet:
      return py::bool_(false);
    case SharedImage::Filled::not_all:
      break;
  }
  return py::none();
}

}  // namespace

void bind_shared_image(py::module_& m) {
  using namespace py::literals;
  py::class_<SharedImage, Source, std::shared_ptr<SharedImage>>(m, "SharedImage",
                                                                doc("SharedImage"))
      .def(py::init(&shared_image), "source"_a, py::kw_only(), "kind"_a = "memfd",
           doc("SharedImage.__init__"))
      .def_property_readonly("page_size", &SharedImage::page_size, doc("SharedImage.page_size"))
      .def_property_readonly("missing_pages", &SharedImage::missing_pages,
                             doc("SharedImage.missing_pages"))
      .def("fileno", &SharedImage::fd, doc("SharedImage.fileno"))
      .def("map", &map_image, "offset"_a = 0, "length"_a = py::none(), py::kw_only(),
           "shared"_a = false, doc("SharedImage.map"))
      .def(
          "fill", [](SharedImage& image) { without_gil([&] { image.start_filling(); }); },
          doc("SharedImage.fill"))
      .def("_wait", &wait_filled, "seconds"_a);
}

}  // namespace uffd::bindings
