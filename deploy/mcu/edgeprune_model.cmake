# A model in firmware.  include(edgeprune_model.cmake), then
#
#     edgeprune_model(gadget_model TFLITE ${CMAKE_SOURCE_DIR}/release/model.tflite)      # written by: edgeprune micro
#     edgeprune_model(gadget_model SOURCES generated/gadget_model.c)                     # written earlier, and kept with the sources
#     target_link_libraries(firmware PRIVATE gadget_model)
#
# makes a static library of the C array <name>_data; its header is <name>.h, and edgeprune_io.h is beside it.
set(EDGEPRUNE_MODEL_FOLDER ${CMAKE_CURRENT_LIST_DIR})

function(edgeprune_model name)
  cmake_parse_arguments(PARSE_ARGV 1 MODEL "" "TFLITE;SOURCES" "")
  if(MODEL_TFLITE)
    find_program(EDGEPRUNE edgeprune REQUIRED)
    set(folder ${CMAKE_CURRENT_BINARY_DIR}/${name})
    set(source ${folder}/${name}.c)
    add_custom_command(
      OUTPUT ${source} ${folder}/${name}.h
      COMMAND ${EDGEPRUNE} micro ${MODEL_TFLITE} --out ${folder} --name ${name}
      DEPENDS ${MODEL_TFLITE}
      VERBATIM)
  elseif(MODEL_SOURCES)
    get_filename_component(source ${MODEL_SOURCES} ABSOLUTE)
    get_filename_component(folder ${source} DIRECTORY)
  else()
    message(FATAL_ERROR "edgeprune_model(${name}): give TFLITE <file> or SOURCES <file.c>")
  endif()
  add_library(${name} STATIC ${source})
  target_include_directories(${name} PUBLIC ${folder} ${EDGEPRUNE_MODEL_FOLDER})
  target_compile_features(${name} PUBLIC c_std_11)
endfunction()
